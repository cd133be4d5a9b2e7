"""Tables of TensorFlow's operations: linear, constant, or proved right.

They say in which inputs an operation is linear or constant, and which ones are proved right. They
are by type of operation; inputs and outputs are given by their positions.
"""

# Linear in these inputs together. The others are settings, or data in which the operation is
# constant almost everywhere.
from __future__ import annotations

LINEAR = {
  "AvgPool": (0,),
  "AvgPool3D": (0,),
  "AvgPool3DGrad": (1,),
  "AvgPoolGrad": (1,),
  "BiasAddGrad": (0,),
  "BroadcastTo": (0,),
  "Cast": (0,),
  "ConjugateTranspose": (0,),
  "CropAndResize": (0,),
  "CropAndResizeGradImage": (0,),
  "DepthToSpace": (0,),
  "ExpandDims": (0,),
  "GatherV2": (0,),
  "MaxPool3DGrad": (2,),
  "MaxPoolGrad": (2,),
  "MaxPoolGradV2": (2,),
  "MaxPoolGradWithArgmax": (1,),
  "Mean": (0,),
  "MirrorPad": (0,),
  "MirrorPadGrad": (0,),
  "Pad": (0,),
  "RaggedFillEmptyRows": (1, 3),
  "RaggedFillEmptyRowsGrad": (1,),
  "Relu6Grad": (0,),
  "Reshape": (0,),
  "ResizeBicubic": (0,),
  "ResizeBicubicGrad": (0,),
  "ResizeBilinear": (0,),
  "ResizeBilinearGrad": (0,),
  "ResizeNearestNeighbor": (0,),
  "ResizeNearestNeighborGrad": (0,),
  "ReverseV2": (0,),
  "Roll": (0,),
  "ScaleAndTranslate": (0,),
  "ScaleAndTranslateGrad": (0,),
  "Slice": (0,),
  "SpaceToDepth": (0,),
  "SparseFillEmptyRows": (1, 3),
  "SparseFillEmptyRowsGrad": (1,),
  "SparseSegmentMean": (0,),
  "SparseSegmentMeanGrad": (0,),
  "SparseSegmentMeanWithNumSegments": (0,),
  "SparseSegmentSqrtN": (0,),
  "SparseSegmentSqrtNGrad": (0,),
  "SparseSegmentSqrtNWithNumSegments": (0,),
  "SparseSegmentSum": (0,),
  "SparseSegmentSumGrad": (0,),
  "SparseSegmentSumWithNumSegments": (0,),
  "SparseSlice": (1,),
  "SparseSliceGrad": (0,),
  "Split": (1,),
  "SplitV": (0,),
  "Squeeze": (0,),
  "StridedSlice": (0,),
  "StridedSliceGrad": (4,),
  "Sum": (0,),
  "Tile": (0,),
  "Transpose": (0,),
  "Unpack": (0,),
  "UnsortedSegmentSum": (0,),
}
# Almost everywhere constant in these inputs: pooling only finds the places of maxima in them, of
# images it may need the shapes, and batch normalization hands on what depends on its first input.
CONSTANT_IN = {
  "FusedBatchNormGrad": (3, 4),
  "FusedBatchNormGradV2": (3, 4),
  "FusedBatchNormGradV3": (3, 4, 5),
  "MaxPool3DGrad": (0, 1),
  "MaxPoolGrad": (0, 1),
  "MaxPoolGradV2": (0, 1),
  "MaxPoolGradWithArgmax": (0,),
  "Relu6Grad": (1,),
  "ReluGrad": (1,),
  "ResizeBicubicGrad": (1,),
  "ResizeBilinearGrad": (1,),
  "ScaleAndTranslateGrad": (1,),
}
# Outputs that are constant almost everywhere, or are for an operation of CONSTANT_IN.
CONSTANT_OUT = {
  "FusedBatchNorm": (3, 4),
  "FusedBatchNormV2": (3, 4),
  "FusedBatchNormV3": (3, 4, 5),
  "LogMatrixDeterminant": (0,),
}
# Linear in each of these inputs alone.
MULTILINEAR = {
  "BatchMatMulV2": (0, 1),
  "Conv2D": (0, 1),
  "Conv2DBackpropFilter": (0, 2),
  "Conv2DBackpropInput": (1, 2),
  "Conv3D": (0, 1),
  "DepthwiseConv2dNative": (0, 1),
  "DepthwiseConv2dNativeBackpropFilter": (0, 2),
  "DepthwiseConv2dNativeBackpropInput": (1, 2),
  "MatMul": (0, 1),
}
# Right in a product, whichever of their inputs depend on parameters: a test has each of them.
# fmt: off
SOUND_OPS = frozenset([
  "Abs", "Acos", "Acosh", "Add", "AddN", "AddV2", "ApproxTopK", "ArgMax", "ArgMin", "Asin",
  "Asinh", "Atan", "Atan2", "Atanh", "AvgPool", "AvgPool3D", "AvgPool3DGrad", "AvgPoolGrad",
  "BandedTriangularSolve", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "BatchToSpace",
  "BatchToSpaceND", "BesselI0", "BesselI0e", "BesselI1", "BesselI1e", "BesselJ0", "BesselJ1",
  "BesselK0", "BesselK0e", "BesselK1", "BesselK1e", "BesselY0", "BesselY1", "BiasAdd",
  "BiasAddGrad", "BiasAddV1", "BroadcastTo", "Cast", "Ceil", "CheckNumerics", "CheckNumericsV2",
  "Cholesky", "ClipByValue", "Concat", "ConcatV2", "ConjugateTranspose", "Conv2D",
  "Conv2DBackpropFilter", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropFilterV2",
  "Conv3DBackpropInputV2", "Cos", "Cosh", "Cross", "Cumprod", "Cumsum", "Dawsn", "DepthToSpace",
  "DepthwiseConv2dNative", "DepthwiseConv2dNativeBackpropFilter",
  "DepthwiseConv2dNativeBackpropInput", "Diag", "DiagPart", "Digamma", "Div", "DivNoNan",
  "DynamicPartition", "Einsum", "Elu", "EluGrad", "EnsureShape", "Erf", "Erfc",
  "Erfinv", "EuclideanNorm", "Exp", "ExpandDims", "Expint", "Expm1", "ExtractImagePatches",
  "ExtractVolumePatches", "Fill", "Floor", "FloorDiv", "FloorMod", "FresnelCos", "FresnelSin",
  "FusedBatchNorm", "FusedBatchNormV2", "Gather", "GatherNd", "GatherV2", "Identity",
  "IdentityN", "Inv", "InvGrad", "IsotonicRegression", "L2Loss", "LRN", "LeakyRelu",
  "LeakyReluGrad", "Lgamma", "Log", "Log1p", "LogMatrixDeterminant", "LogSoftmax", "MatMul",
  "MatrixBandPart", "MatrixDeterminant", "MatrixDiag", "MatrixDiagPart", "MatrixDiagPartV3",
  "MatrixDiagV2", "MatrixDiagV3", "MatrixInverse", "MatrixSetDiag", "MatrixSetDiagV2",
  "MatrixSetDiagV3", "MatrixSolve", "MatrixSquareRoot", "MatrixTriangularSolve", "Max",
  "MaxPool", "MaxPool3D", "MaxPool3DGrad", "MaxPool3DGradGrad", "MaxPoolGrad",
  "MaxPoolGradGrad", "MaxPoolV2", "MaxPoolWithArgmax", "Maximum", "Mean", "Min", "Minimum",
  "MirrorPad", "MirrorPadGrad", "Mul", "MulNoNan", "Ndtri", "Neg", "NextAfter", "NthElement",
  "OnesLike", "Pack", "Pad", "PlaceholderWithDefault", "Pow", "Print",
  "Prod", "Qr", "RGBToHSV", "RaggedFillEmptyRows", "RealDiv", "Reciprocal", "ReciprocalGrad",
  "Relu", "Relu6", "Relu6Grad", "ReluGrad", "Reshape", "ResizeBicubic", "ResizeBilinear",
  "ResizeNearestNeighbor", "Reverse", "ReverseSequence", "ReverseV2", "Rint", "Roll", "Round",
  "Rsqrt", "RsqrtGrad", "ScatterNdNonAliasingAdd", "SegmentMax", "SegmentMean", "SegmentMin",
  "SegmentProd", "SegmentSum", "Select", "SelectV2", "SelfAdjointEigV2", "Selu", "SeluGrad",
  "Sigmoid", "SigmoidGrad", "Sign", "Sin", "Sinh", "Slice", "Softmax",
  "SoftmaxCrossEntropyWithLogits", "Softplus", "SoftplusGrad", "Softsign", "SpaceToBatch",
  "SpaceToBatchND", "SpaceToDepth", "SparseDenseCwiseDiv", "SparseDenseCwiseMul",
  "SparseFillEmptyRows", "SparseMatMul", "SparseReduceSum", "SparseReorder",
  "SparseSegmentMean", "SparseSegmentSqrtN", "SparseSegmentSum", "SparseSlice",
  "SparseSoftmaxCrossEntropyWithLogits", "SparseTensorDenseAdd", "SparseTensorDenseMatMul",
  "SparseToDense", "Spence", "Split", "SplitV", "Sqrt", "SqrtGrad", "Square",
  "SquaredDifference", "Squeeze", "StopGradient", "StridedSlice", "StridedSliceGrad", "Sub",
  "Sum", "Svd", "Tan", "Tanh", "TanhGrad", "TensorScatterAdd", "TensorScatterMax",
  "TensorScatterMin", "TensorScatterSub", "TensorScatterUpdate", "TensorStridedSliceUpdate",
  "Tile", "TopKV2", "Transpose", "TridiagonalMatMul", "TridiagonalSolve",
  "Unpack", "UnsortedSegmentMax", "UnsortedSegmentMin",
  "UnsortedSegmentProd", "UnsortedSegmentSum", "Xdivy", "Xlog1py", "Xlogy", "ZerosLike",
])
# fmt: on

# Linear in all floating-point inputs together. IdentityN stands for a custom gradient, which is for
# the way back: what a function does forward is in the operations before it.
JOINING = frozenset({"ConcatV2", "DynamicStitch", "IdentityN", "Pack", "Select", "SelectV2"})
