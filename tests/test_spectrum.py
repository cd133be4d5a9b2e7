"""The result of a density run: what it says of a matrix, and its files."""

import dataclasses
import io
import json

import numpy as np
import pytest
import scipy.stats

from tf_hessian import spectrum as spectrum_lib
from tf_hessian import spectrum_file
from tf_hessian.numerics import density, probes, quadrature
from tf_hessian.numerics.lanczos import Lanczos
from tf_hessian.numerics.quadrature import share
from tf_hessian.numerics.results import Quadrature
from tf_hessian.spectrum import Spectrum

N = 30
EIGENVALUES = np.concatenate([np.linspace(-1, 1, N - 3), [2.0, 3.0, 5.0]])
ARRAYS = ("diagonals", "off_diagonals")


def measure(eigenvalues, *, steps=None, draws=3, **about):
  """Returns the spectrum of a diagonal matrix."""
  n = len(eigenvalues)
  runs = [Lanczos.start(probes.probe(0, i, n), steps or n) for i in range(draws)]
  for run in runs:
    run.run(lambda v: eigenvalues * v)
  return Spectrum(
    diagonals=tuple(r.alphas for r in runs),
    off_diagonals=tuple(r.betas[:-1] for r in runs),
    residuals=np.array([r.betas[-1] for r in runs]),
    statuses=tuple(r.status.name for r in runs),
    num_parameters=n,
    seed=0,
    **about,
  )


@pytest.fixture(scope="module")
def full():
  """All eigenvalues are nodes."""
  return measure(EIGENVALUES)


@pytest.fixture(scope="module")
def some():
  """Few steps, with all the metadata there is."""
  return measure(
    EIGENVALUES,
    steps=7,
    parameter_names=("kernel", "bias"),
    parameter_shapes=((7, 4), (2,)),
    loss=0.1 + 0.2,
    config={"data": {"name": "σ", "sizes": [1, 2]}, "none": None},
    versions={"numpy": "2"},
    device="CPU",
    wall_times=np.array([0.1, 0.2, 0.3]),
  )


@pytest.fixture(scope="module")
def uneven():
  """Draws of 1, 3 and 2 nodes."""
  return Spectrum(
    diagonals=(np.array([1.0]), np.array([1.0, -2.0, 1 / 3]), np.array([0.0, 5.0])),
    off_diagonals=(np.empty(0), np.array([0.5, 1e-300]), np.array([np.pi])),
    residuals=np.array([0.0, 1e-17, 2.0]),
    statuses=("INVARIANT", "COMPLETE", "INVARIANT"),
    num_parameters=None,
  )


@pytest.fixture(scope="module")
def saved(some, tmp_path_factory):
  """The bytes of a file."""
  path = tmp_path_factory.mktemp("saved") / "spectrum.npz"
  some.save(path)
  return path.read_bytes()


def assert_same(first, second):
  """Asserts that two spectra are bitwise the same, with all that they record."""
  for name in ARRAYS:
    for a, b in zip(getattr(first, name), getattr(second, name), strict=True):
      assert a.dtype == b.dtype == np.float64
      assert (a.shape, a.tobytes()) == (b.shape, b.tobytes())
  for name in ("residuals", "wall_times"):
    np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
  for name in vars(Spectrum)["__dataclass_fields__"].keys() - {*ARRAYS, "residuals", "wall_times"}:
    a, b = getattr(first, name), getattr(second, name)
    assert (name, type(a), a) == (name, type(b), b)


# What it says of the matrix.


def test_largest_are_the_largest_eigenvalues(full):
  np.testing.assert_allclose(full.largest(4), [5, 3, 2, 1], rtol=0, atol=1e-13)


def test_smallest_are_the_smallest_eigenvalues(full):
  expected = EIGENVALUES[:5]
  np.testing.assert_allclose(full.smallest(5), expected, rtol=0, atol=1e-13)


def test_ritz_values_lie_inside_the_spectrum(some):
  assert np.all(some.largest(7) <= EIGENVALUES[::-1][:7] + 1e-13)
  assert np.all(some.smallest(7) >= EIGENVALUES[:7] - 1e-13)


def test_largest_is_the_best_of_the_draws(some):
  assert some.largest(1)[0] == max(t[-1] for t in some.nodes)
  assert some.smallest(1)[0] == min(t[0] for t in some.nodes)


def test_no_more_extremes_than_nodes(uneven):
  assert uneven.largest(10).shape == uneven.smallest(10).shape == (3,)
  assert np.isfinite(uneven.largest(10)).all()
  assert np.isfinite(uneven.smallest(10)).all()


@pytest.mark.parametrize("method", ["largest", "smallest", "moments"])
@pytest.mark.parametrize("count", [0, -1])
def test_count_below_one_is_refused(full, method, count):
  with pytest.raises(ValueError, match="at least 1"):
    getattr(full, method)(count)


def test_moments_are_those_of_the_start_vectors(full):
  v = np.array([probes.probe(0, i, N) for i in range(3)])
  draws = np.array([[x**2 @ EIGENVALUES**j for j in (1, 2, 3)] for x in v])
  mean, stderr = full.moments(3)
  np.testing.assert_allclose(mean, draws.mean(axis=0), rtol=1e-12)
  np.testing.assert_allclose(stderr, draws.std(axis=0, ddof=1) / np.sqrt(3), rtol=1e-10)


def test_trace_is_n_times_the_first_moment(full):
  mean, stderr = full.moments(1)
  assert full.trace() == (N * mean[0], N * stderr[0])
  assert all(type(x) is float for x in full.trace())


def test_trace_of_a_multiple_of_the_identity_is_exact():
  trace, stderr = measure(np.full(N, 0.25)).trace()
  assert (trace, stderr) == (pytest.approx(N / 4, rel=1e-14), pytest.approx(0, abs=1e-13))


def test_trace_is_not_known_without_n(uneven):
  assert np.isnan(uneven.trace()).all()


def test_single_draw_has_no_standard_error():
  trace, stderr = measure(EIGENVALUES, draws=1).trace()
  assert np.isfinite(trace)
  assert np.isnan(stderr)


def test_weights_of_each_draw_sum_to_one(uneven):
  assert [w.sum() for w in uneven.weights] == pytest.approx([1, 1, 1], rel=1e-14)


def test_quadratures_are_those_of_the_numerics(some):
  for q, d, e in zip(some.quadratures, some.diagonals, some.off_diagonals, strict=True):
    np.testing.assert_array_equal(q.nodes, quadrature.gauss_quadrature(d, e).nodes)
    np.testing.assert_array_equal(q.weights, quadrature.gauss_quadrature(d, e).weights)


def test_quadratures_are_computed_once(some):
  assert some.quadratures is some.quadratures


def test_tridiagonals_have_the_nodes_as_eigenvalues(uneven):
  assert [t.shape for t in uneven.tridiagonals] == [(1, 1), (3, 3), (2, 2)]
  for t, nodes in zip(uneven.tridiagonals, uneven.nodes, strict=True):
    np.testing.assert_allclose(np.linalg.eigvalsh(t), nodes, atol=1e-14)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("grid", [None, np.linspace(-2, 6, 500)])
def test_density_is_that_of_the_numerics(some, relative, grid):
  found = some.density(1e-3, grid=grid, relative=relative)
  expected = density.density(some.nodes, some.weights, 1e-3, grid=grid, relative=relative)
  for name in ("grid", "values", "stderr", "draws", "sigma_squared", "missing_mass"):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_density_unpacks(some):
  grid, values, stderr = some.density()
  assert grid.shape == values.shape == stderr.shape


@pytest.mark.parametrize("sigma_squared", [0, -1e-5, np.nan, np.inf])
def test_density_refuses_a_bad_variance(some, sigma_squared):
  with pytest.raises(ValueError, match="sigma_squared"):
    some.density(sigma_squared)


@pytest.mark.parametrize("which", ["full", "some", "uneven"])
def test_summary_is_json(request, which):
  result = request.getfixturevalue(which)
  summary = json.loads(json.dumps(result.summary(), allow_nan=False))
  assert summary["num_draws"] == 3
  assert summary["steps"] == [len(d) for d in result.diagonals]
  assert summary["largest"] == result.largest(10).tolist()


def test_summary_of_a_single_draw_is_json():
  summary = measure(EIGENVALUES, draws=1).summary()
  assert json.loads(json.dumps(summary, allow_nan=False))["trace_stderr"] is None


def test_result_is_frozen(some):
  with pytest.raises(AttributeError):
    some.loss = 1.0


# Our file.


@pytest.mark.parametrize("which", ["full", "some", "uneven"])
def test_saved_spectrum_comes_back_bitwise(request, tmp_path, which):
  result = request.getfixturevalue(which)
  result.save(tmp_path / "spectrum.npz")
  assert_same(Spectrum.load(tmp_path / "spectrum.npz"), result)


def test_suffix_is_added(some, tmp_path):
  some.save(tmp_path / "run.1")
  assert_same(Spectrum.load(tmp_path / "run.1.npz"), some)


def test_file_is_of_use_without_this_package(uneven, tmp_path):
  uneven.save(tmp_path / "spectrum.npz")
  with np.load(tmp_path / "spectrum.npz") as file:
    for i, m in enumerate(file["steps"]):
      np.testing.assert_array_equal(file["nodes"][i, :m], uneven.nodes[i])
      np.testing.assert_array_equal(file["weights"][i, :m], uneven.weights[i])
      assert np.isnan(file["nodes"][i, m:]).all()


def test_missing_file_is_not_found(tmp_path):
  with pytest.raises(FileNotFoundError):
    Spectrum.load(tmp_path / "spectrum.npz")


def assert_refused(path, load=Spectrum.load):
  with pytest.raises(ValueError) as error:
    load(path)
  assert str(path) in str(error.value)


CHANGES = {
  "no draws": {"steps": lambda a: a[:0]},
  "steps of text": {"steps": lambda a: a.astype(str)},
  "no steps": {"steps": lambda a: 0 * a},
  "more steps than columns": {"steps": lambda a: a + 1},
  "float32": {"diagonals": lambda a: a.astype("i4")},
  "not finite": {"diagonals": lambda a: a * np.nan},
  "off-diagonals not finite": {"off_diagonals": lambda a: a * np.inf},
  "another shape": {"off_diagonals": lambda a: a[:, :-1]},
  "a number": {"diagonals": lambda _: np.float64(3)},
  "residuals of another length": {"residuals": lambda a: a[1:]},
  "wall times of text": {"wall_times": lambda a: a.astype(str)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_arrays_that_can_not_be_a_result_are_refused(saved, tmp_path, change):
  with np.load(io.BytesIO(saved)) as file:
    arrays = dict(file)
  for name, function in CHANGES[change].items():
    arrays[name] = function(arrays[name])
  path = tmp_path / "spectrum.npz"
  np.savez(path, **arrays)
  assert_refused(path)


@pytest.mark.parametrize(
  "field, value",
  [
    ("format_version", "1"),
    ("format_version", None),
    ("statuses", []),
    ("statuses", 3),
    ("config", 3),
    ("parameter_shapes", [3]),
  ],
)
def test_description_that_can_not_be_is_refused(saved, tmp_path, field, value):
  with np.load(io.BytesIO(saved)) as file:
    arrays = dict(file)
  about = json.loads(arrays["about"].tobytes()) | {field: value}
  arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
  path = tmp_path / "spectrum.npz"
  np.savez(path, **arrays)
  assert_refused(path)


def test_result_replaces_a_link_and_not_what_it_points_to(some, tmp_path):
  (tmp_path / "target").write_text("mine")
  for name, save in (("a.npz", some.save), ("b", some.save_original), ("c.png", some.plot)):
    (tmp_path / name).symlink_to(tmp_path / "target")
    save(tmp_path / name)
    assert not (tmp_path / name).is_symlink()
  assert (tmp_path / "target").read_text() == "mine"


def test_result_goes_through_a_file_object(some):
  file = io.BytesIO()
  some.write(file)
  file.seek(0)
  assert_same(Spectrum.read(file), some)


@pytest.mark.parametrize("which", ["full", "some", "uneven"])
def test_spectrum_comes_back_from_bytes_bitwise(request, which):
  spectrum = request.getfixturevalue(which)
  assert_same(Spectrum.from_bytes(spectrum.to_bytes()), spectrum)


def test_bytes_are_those_of_the_file(some, saved):
  assert some.to_bytes() == saved


@pytest.mark.parametrize("part", [0.0, 0.1, 0.9])
def test_bytes_that_are_no_spectrum_are_refused(saved, part):
  with pytest.raises(ValueError, match="^spectrum as bytes: not an .npz file of arrays"):
    Spectrum.from_bytes(saved[: int(part * len(saved))])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_original_that_is_not_finite_is_refused(tmp_path, value):
  path = write_original(tmp_path / "tridiag_1", [np.diag([1.0, value])])
  assert_refused(path, spectrum_lib.load)


@pytest.mark.parametrize("dtype", ["U3", "c16", "?"])
def test_original_of_another_dtype_is_refused(tmp_path, dtype):
  np.save(tmp_path / "tridiag_1.npy", np.ones((2, 2, 1)).astype(dtype))
  assert_refused(tmp_path / "tridiag_1.npy", spectrum_lib.load)


@pytest.mark.usefixtures("closed")
@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("load", [Spectrum.load, spectrum_lib.load])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(saved, tmp_path, part, load):
  path = tmp_path / "spectrum.npz"
  path.write_bytes(saved[: int(part * len(saved))])
  assert_refused(path, load)


def test_flipped_byte_is_refused_or_does_no_harm(some, saved, tmp_path):
  path = tmp_path / "spectrum.npz"
  escaped = {}
  ends = [*range(64), *range(len(saved) - 700, len(saved))]  # headers, where most can go wrong
  for place in sorted({*ends, *range(0, len(saved), 97)}):
    for bit in (0x01, 0xFF):
      damaged = bytearray(saved)
      damaged[place] ^= bit
      path.write_bytes(damaged)
      try:
        assert_same(Spectrum.load(path), some)
      except ValueError as e:
        assert str(path) in str(e)
      except Exception as e:  # any other kind of error, or a wrong result
        escaped[place, bit] = repr(e)[:100]
  assert not escaped


@pytest.mark.usefixtures("closed")
@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"PK\x03\x04", bytes(1000)])
def test_other_file_is_refused(tmp_path, content):
  (tmp_path / "spectrum.npz").write_bytes(content)
  assert_refused(tmp_path / "spectrum.npz")


def test_other_npz_is_refused(tmp_path):
  np.savez(tmp_path / "spectrum.npz", nodes=np.arange(3))
  assert_refused(tmp_path / "spectrum.npz")


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("about", [{}, {"format": "other"}, [], "text", None])
def test_npz_of_another_format_is_refused(tmp_path, about):
  text = np.frombuffer(json.dumps(about).encode(), np.uint8)
  np.savez(tmp_path / "spectrum.npz", about=text)
  assert_refused(tmp_path / "spectrum.npz")


@pytest.mark.usefixtures("closed")
@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("missing", ["steps", "diagonals", "residuals", "wall_times"])
def test_file_without_one_of_its_arrays_is_refused(saved, tmp_path, missing):
  with np.load(io.BytesIO(saved)) as file:
    arrays = {k: v for k, v in file.items() if k != missing}
  np.savez(tmp_path / "spectrum.npz", **arrays)
  assert_refused(tmp_path / "spectrum.npz")


def test_original_layout_is_refused_by_the_reader_of_ours(some, tmp_path):
  some.save_original(tmp_path / "tridiag_3")
  assert_refused(tmp_path / "tridiag_3")


def test_newer_format_is_refused_with_a_remedy(some, tmp_path, monkeypatch):
  path = tmp_path / "spectrum.npz"
  with monkeypatch.context() as patch:
    patch.setattr(spectrum_file, "FORMAT_VERSION", 2)
    some.save(path)
  with pytest.raises(ValueError, match=f"{path}.*version 2.*install a newer"):
    Spectrum.load(path)


def test_file_that_cannot_be_written_is_named(some, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match=str(tmp_path / "file" / "spectrum.npz")):
    some.save(tmp_path / "file" / "spectrum.npz")


# The original code's file.


def test_original_layout_is_steps_by_steps_by_draws(some, tmp_path):
  some.save_original(tmp_path / "tridiag_3")
  array = np.load(tmp_path / "tridiag_3")
  assert (array.shape, array.dtype) == ((7, 7, 3), np.float64)
  for i, t in enumerate(some.tridiagonals):
    np.testing.assert_array_equal(array[:, :, i], t)


def test_original_layout_is_refused_to_a_draw_that_it_takes_for_unfinished(tmp_path):
  with pytest.raises(ValueError, match="a draw of zeros"):
    measure(np.zeros(N)).save_original(tmp_path / "tridiag_3")


def test_original_layout_comes_back_bitwise(some, tmp_path):
  some.save_original(tmp_path / "tridiag_3")
  found = Spectrum.load_original(tmp_path / "tridiag_3", num_parameters=N)
  for name in ARRAYS:
    for a, b in zip(getattr(found, name), getattr(some, name), strict=True):
      assert a.tobytes() == b.tobytes()
  assert found.num_parameters == N
  assert found.trace() == some.trace()


def test_spectrum_of_the_original_layout_can_be_saved_as_ours(some, tmp_path):
  some.save_original(tmp_path / "tridiag_3")
  found = spectrum_lib.load(tmp_path / "tridiag_3")
  found.save(tmp_path / "spectrum.npz")
  assert_same(Spectrum.load(tmp_path / "spectrum.npz"), found)
  json.dumps(found.summary(), allow_nan=False)


def test_uneven_draws_do_not_fit_the_original_layout(uneven, tmp_path):
  with pytest.raises(ValueError, match=r"same number of nodes.*\[1, 3, 2\]"):
    uneven.save_original(tmp_path / "tridiag_3")
  assert not (tmp_path / "tridiag_3").exists()


def write_original(path, matrices):
  with open(path, "wb") as file:
    np.save(file, np.stack(matrices, axis=-1))
  return path


def test_unfinished_draws_of_the_original_are_left_out(some, tmp_path):
  zero = np.zeros((7, 7))
  path = write_original(tmp_path / "tridiag_3", [some.tridiagonals[0], zero, some.tridiagonals[2]])
  found = Spectrum.load_original(path)
  assert found.num_draws == 2
  np.testing.assert_array_equal(found.diagonals[1], some.diagonals[2])


def test_original_without_a_finished_draw_is_refused(tmp_path):
  assert_refused(write_original(tmp_path / "tridiag_1", [np.zeros((4, 4))]), spectrum_lib.load)


@pytest.mark.parametrize("entry", [(0, 2), (1, 0), (6, 0)])
def test_original_that_is_not_symmetric_tridiagonal_is_refused(some, tmp_path, entry):
  damaged = some.tridiagonals[1].copy()
  damaged[entry] += 1e-12
  path = write_original(tmp_path / "tridiag_2", [some.tridiagonals[0], damaged])
  with pytest.raises(ValueError, match=f"{path}: draw 1 .*tridiagonal"):
    spectrum_lib.load(path)


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (3, 4, 2), (2, 2, 2, 2)])
def test_original_of_another_shape_is_refused(tmp_path, shape):
  with open(tmp_path / "tridiag_1", "wb") as file:
    np.save(file, np.ones(shape))
  assert_refused(tmp_path / "tridiag_1", spectrum_lib.load)


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_truncated_original_is_refused(some, tmp_path, part):
  path = tmp_path / "tridiag_3"
  some.save_original(path)
  content = path.read_bytes()
  path.write_bytes(content[: int(part * len(content))])
  assert_refused(path, spectrum_lib.load)


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("part", [0.5, 1.0])
def test_our_layout_is_refused_by_the_reader_of_the_original(saved, tmp_path, part):
  (tmp_path / "file").write_bytes(saved[: int(part * len(saved))])
  assert_refused(tmp_path / "file", Spectrum.load_original)


def test_either_layout_is_recognised_by_its_content(some, saved, tmp_path):
  some.save_original(tmp_path / "b.npz")
  (tmp_path / "a").write_bytes(saved)
  assert_same(spectrum_lib.load(tmp_path / "a"), some)
  assert spectrum_lib.load(tmp_path / "b.npz", num_parameters=N).trace() == some.trace()


def test_a_path_without_suffix_is_loaded_as_it_was_saved(some, tmp_path):
  some.save(tmp_path / "result")
  assert_same(Spectrum.load(tmp_path / "result"), some)
  assert_same(spectrum_lib.load(tmp_path / "result"), some)


def test_residual_bounds_hold_for_some_eigenvalue(some):
  for nodes, bounds in zip(some.nodes, some.residual_bounds(), strict=True):
    nearest = np.abs(nodes[:, None] - EIGENVALUES).min(axis=1)
    # Rounding of the nodes, on top of the bounds.
    assert np.all(nearest <= bounds + 1e-14)
    assert bounds.max() > 0.01 > bounds.min()


# Mass.


def test_mass_times_n_is_the_number_of_eigenvalues():
  # All eigenvalues are nodes, but the weights are random: their mean over many draws is 1 / n.
  many = measure(EIGENVALUES, draws=400)
  mean, stderr = many.mass(1.5)
  assert abs(mean * N - 3) <= 4 * stderr * N
  # (v' q)^2 summed over three eigenvectors, of a unit vector, is a beta variable.
  assert stderr == pytest.approx(scipy.stats.beta(1.5, (N - 3) / 2).std() / 20, rel=0.2)


def test_mass_of_everything_is_1(some):
  np.testing.assert_allclose(some.mass()[0], 1, rtol=0, atol=16 * np.finfo(float).eps)


def test_ends_of_the_range_of_a_mass_count(full):
  nodes, weights = full.nodes[0], full.weights[0]
  single = Spectrum(full.diagonals[:1], full.off_diagonals[:1], full.residuals[:1], ("X",), N)
  mean, stderr = single.mass(nodes[3], nodes[5])
  assert mean == weights[3:6].sum() and np.isnan(stderr)


@pytest.mark.parametrize("end", [1.0, -3.0, 2.0**-10, 0.0])
@pytest.mark.parametrize("precision", [0.0, 1e-7])
def test_eigenvalues_that_are_an_end_but_for_rounding_count(end, precision):
  size = 4 * max(precision, np.finfo(float).eps)  # of what rounds the nodes, of which 4 is largest
  nodes = [np.array([-4.0, end - size, end + size, 4.0]) for _ in range(2)]
  rules = [Quadrature(t, np.array([0.1, 0.2, 0.3, 0.4])) for t in nodes]
  for low, high, expected in [
    (end, np.inf, 0.9),
    (-np.inf, end, 0.6),
    (end, end, 0.5),
    (end + 20 * size, np.inf, 0.4),
    (-np.inf, end - 20 * size, 0.1),
  ]:
    assert share(rules[0], low, high, precision) == pytest.approx(expected), (low, high)


def test_masses_of_repeated_eigenvalues_at_an_end_are_exact():
  found = measure(np.repeat([1.0, 2.0], [6, N - 6]))
  assert found.mass(1.0)[0] == pytest.approx(1) and found.mass(-np.inf, 2.0)[0] == pytest.approx(1)
  assert found.mass(2.0)[0] == pytest.approx(1 - found.mass(1.0, 1.0)[0])


def test_run_from_a_vector_of_its_own_has_no_trace():
  assert np.isnan(measure(EIGENVALUES, config={"start": "gradient"}).trace()).all()


# Deflation.


def test_deflated_density_has_peaks_of_isolated_eigenvalues_at_their_height():
  found = measure(EIGENVALUES, steps=20).density(1e-4, deflate=True)
  peak = 1 / np.sqrt(2 * np.pi * 1e-4) / N
  for eigenvalue in (2.0, 3.0, 5.0):
    nearest = np.argmin(np.abs(found.grid - eigenvalue))
    # The grid has 12 points a sigma.
    np.testing.assert_allclose(found.draws[:, nearest], peak, rtol=1 / (2 * 24**2) + 1e-9)


def test_deflated_names_the_eigenvalues_that_are_known():
  found = measure(EIGENVALUES, steps=20).deflated()
  np.testing.assert_allclose(found.eigenvalues[-3:], [2, 3, 5], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_parameters": None}, "number of parameters"),
    ({"config": {"start": "gradient"}}, "random start vectors"),
    ({"residuals": np.full(3, np.nan)}, "residual"),
  ],
)
def test_deflation_that_is_not_possible_says_why(some, change, message):
  with pytest.raises(ValueError, match=f"deflation: .*{message}"):
    dataclasses.replace(some, **change).density(deflate=True)


@pytest.mark.parametrize("scale, precision", [(1.0, 0.0), (1e3, 1.2e-7), (1e-30, 1.2e-7)])
def test_zeros_but_for_rounding_are_zeros(scale, precision):
  tiny = scale * max(precision, 1e-16)
  spectrum = Spectrum(
    (np.array([-tiny, scale]), np.array([tiny, scale]), np.array([-1e-3 * scale, scale])),
    (np.zeros(1),) * 3,
    np.zeros(3),
    ("COMPLETE",) * 3,
    2,
    config={"precision": precision},
  )
  # A draw of a diagonal matrix has all its weight at its first node.
  assert spectrum.mass(low=0.0)[0] == pytest.approx(2 / 3)
  assert spectrum.mass(high=0.0)[0] == pytest.approx(1)
  assert spectrum.mass(high=np.nextafter(0.0, -1.0))[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("low, high", [("a", "b"), (None, 1.0)])
def test_ends_that_are_no_numbers_are_refused(low, high):
  with pytest.raises(TypeError, match="mass: expected two numbers"):
    measure(EIGENVALUES, draws=2).mass(low, high)


def test_file_beside_a_folder_of_its_name_is_loaded(tmp_path):
  (tmp_path / "run").mkdir()
  spectrum = measure(EIGENVALUES, draws=2)
  spectrum.save(tmp_path / "run")
  np.testing.assert_array_equal(Spectrum.load(tmp_path / "run").nodes[0], spectrum.nodes[0])
