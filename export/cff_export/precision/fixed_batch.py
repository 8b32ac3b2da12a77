"""A free batch dimension becomes a number, and with it every other shape of the graph."""

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def fix_batch(model: ir.Model, n_images: int) -> None:
    """Set the first dimension of the graph input ``image``, in place.

    The shapes inside are forgotten and inferred again, values of shape arithmetic included.
    """
    (image,) = (value for value in model.graph.inputs if value.name == "image")
    if image.shape is None or isinstance(image.shape[0], int):
        return
    batch = image.shape[0].value
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(
                n_images if isinstance(dim, ir.SymbolicDim) and dim.value == batch else dim
                for dim in value.shape
            )
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None
    ShapeInferencePass(data_prop=True)(model)
