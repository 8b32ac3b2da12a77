"""What `cff_runtime.finishing` does on the host, as nodes behind an encoder.

best_s  = max over the bank's rows of features_s . row    [B N_s]      running over chunks of rows
plane_g = sum over the stages s of one grid of d(1 - best_s)           [B,h,w], d = log or identity
map     = sum over the grids g of Up_y plane_g Up_x^T + weight * the encoder's map     [B,H,W]
value   = max(map), or its population standard deviation                               [B]
score   = value                                                        [B], or, where the encoder
score   = 0.5 (the encoder's score + peak_scale * value)               [B]  gives one
reject  = score > threshold, or not a number

Without memory banks nothing is searched, and the map is the encoder's own. The deviation is taken
from the map less its mean, not from the mean of squares, which cancel in float32.

A chunk has at most 1024 rows, so that no [B N_s, M_s] tensor of the whole memory bank exists.

The threshold is the largest float32 that is not above the profile's float64 value t: for a float32
score, score > t exactly if score > floor(t), ties included. So `reject` is what Python's
``float(score) > t`` says of the same score; only the score itself may differ by rounding.

A map that is not finite gives the score NaN and is rejected: NaN is above no threshold, an
operator such as ReduceMax may drop it, and a part must not pass because of it.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from cff_runtime.errors import BundleError
from cff_runtime.finishing import LOG_SCALE, upsampling_matrix
from cff_runtime.manifest import Manifest
from cff_runtime.profile import Profile

CHUNK_ROWS = 1024
# what a standalone graph names itself
RESERVED = frozenset({"anomaly_map", "peak_scale", "reject", "score", "threshold"})
MIN_OPSET = 18  # reductions take their axes as an input
_FINISH = "finish"
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def round_down(value: float) -> np.float32:
    """Return the largest float32 that is not above `value`."""
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > value else rounded


def profile_tensors(manifest: Manifest, profile: Profile) -> dict[str, NDArray[np.float32]]:
    """Return what a product brings to the graph, by the name of the input that takes it.

    Returns
    -------
    dict of ndarray, float32
        ``bank_s`` (M_s, C_s), the condition under its own name, ``threshold`` (1,) and, where the
        encoder gives a score, ``peak_scale`` (1,).
    """
    tensors = {f"bank_{stage}": bank for stage, bank in enumerate(profile.banks)}
    tensors[manifest.condition.input] = profile.condition
    tensors["threshold"] = np.array([round_down(profile.threshold.value)], np.float32)
    if manifest.score.output is not None:
        tensors["peak_scale"] = np.array([profile.peak_scale], np.float32)
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def append_scoring(
    model: ir.Model, manifest: Manifest, tensors: dict[str, NDArray[np.float32]], inputs: bool
) -> None:
    """Turn an encoder into a graph from the image to the answer, in place.

    Parameters
    ----------
    model : ir.Model
        The bundle's encoder; its condition and its outputs are replaced.
    manifest : Manifest
    tensors : dict
        From `profile_tensors`.
    inputs : bool
        Make them inputs of the graph instead of constants.

    Raises
    ------
    BundleError
        If the encoder has not the inputs and outputs of a bundle.
    """
    encoder = _Encoder.of(model, manifest)
    builder = _Builder(model.graph, tensors, inputs)
    builder.bind_condition(encoder.condition)
    planes = _searched(builder, encoder, manifest)
    height, width = manifest.preprocessing.height, manifest.preprocessing.width
    weight = builder.scalar("map_weight", manifest.map.weight)
    total = builder.node(_FINISH, "Mul", encoder.map, weight)
    for grid, plane in planes.items():  # stages of one grid are upsampled together
        total = builder.node(_FINISH, "Add", total, builder.upsample(plane, grid, height, width))
    score, reject = builder.verdict(total, encoder.score, manifest.score.statistic)
    outputs = [
        _typed(total, "anomaly_map", ir.DataType.FLOAT, [encoder.batch, height, width]),
        _typed(score, "score", ir.DataType.FLOAT, [encoder.batch]),
        _typed(reject, "reject", ir.DataType.BOOL, [encoder.batch]),
    ]
    if encoder.score is not None:
        outputs.append(encoder.score)
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    model.graph.name = "standalone"
    RemoveUnusedNodesPass()(model)  # features that are not searched, unless the map needs them


def _searched(
    builder: "_Builder", encoder: "_Encoder", manifest: Manifest
) -> dict[tuple[int, int], ir.Value]:
    """Return the summed distances [B,h,w] of every grid; none without memory banks."""
    planes: dict[tuple[int, int], ir.Value] = {}
    for stage in range(len(manifest.scorers)):
        info = manifest.stages[stage]
        best = builder.search(stage, encoder.features[stage], info.width)
        plane = builder.plane(best, info.grid, manifest.distance)
        if info.grid in planes:
            plane = builder.node(_FINISH, "Add", planes[info.grid], plane)
        planes[info.grid] = plane
    return planes


@dataclass(frozen=True, eq=False)
class _Encoder:
    """The values that an encoder's graph takes and gives."""

    batch: int | ir.SymbolicDim
    condition: ir.Value
    features: list[ir.Value]
    map: ir.Value
    score: ir.Value | None

    @classmethod
    def of(cls, model: ir.Model, manifest: Manifest) -> "_Encoder":
        opset = model.opset_imports.get("", 0)
        if opset < MIN_OPSET:
            raise BundleError(
                f"`{manifest.encoder}` must have opset {MIN_OPSET} or later, got {opset}; "
                "export the bundle again"
            )
        given = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
        features = [f"features_{stage}" for stage in range(len(manifest.stages))]
        condition, score = manifest.condition.input, manifest.score.output
        expected = ["image", condition, *features, manifest.map.output]
        expected += [] if score is None else [score]
        taken = sorted({condition, *([] if score is None else [score])} & RESERVED)
        if taken:
            raise BundleError(
                f"the encoder's tensor `{taken[0]}` must have another name, a standalone graph has "
                "its own of it; export the bundle again"
            )
        missing = [name for name in expected if name not in given]
        shape = given["image"].shape if "image" in given else None
        if missing or shape is None:
            raise BundleError(
                f"`{manifest.encoder}` must have inputs and outputs {', '.join(expected)}, "
                f"got {', '.join(str(name) for name in given)}; export the bundle again"
            )
        encoder_map = given[manifest.map.output]
        if encoder_map.name in RESERVED:
            encoder_map.name = f"encoder/{encoder_map.name}"
        return cls(
            batch=shape[0],
            condition=given[condition],
            features=[given[name] for name in features],
            map=encoder_map,
            score=None if score is None else given[score],
        )


class _Builder:
    """Appends named nodes, constants and a product's tensors to a graph."""

    def __init__(
        self, graph: ir.Graph, tensors: dict[str, NDArray[np.float32]], inputs: bool
    ) -> None:
        self._graph = graph
        self._tensors = tensors
        self._inputs = inputs
        self._n_nodes = 0
        self._constants: dict[str, ir.Value] = {}

    def node(
        self, scope: str, op_type: str, *inputs: ir.Value, **attributes: int | float
    ) -> ir.Value:
        """Append a node ``<scope>/<operator>_<index>`` and return its one output."""
        name = f"{scope}/{op_type}_{self._n_nodes}"
        self._n_nodes += 1
        made = ir.node(op_type, inputs, attributes, name=name)
        made.outputs[0].name = name
        self._graph.append(made)
        return made.outputs[0]

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Return the initialiser of this name, made on first use."""
        if name not in self._constants:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
            )
            value.const_value = tensor
            self._graph.register_initializer(value)
            self._constants[name] = value
        return self._constants[name]

    def integers(self, *values: int) -> ir.Value:
        """Return a constant list of integers: a shape, axes, a range."""
        name = f"{_FINISH}/int64_" + "_".join(str(value) for value in values)
        return self.constant(name, np.array(values, np.int64))

    def scalar(self, name: str, value: float) -> ir.Value:
        """Return a constant number."""
        return self.constant(f"{_FINISH}/{name}", np.array(value, np.float32))

    def bind_condition(self, condition: ir.Value) -> None:
        """Make the condition, an input of the encoder, a constant where that is asked for."""
        if self._inputs:
            return
        self._graph.inputs.remove(condition)
        array = self._tensors[str(condition.name)]
        condition.const_value = ir.tensor(array, name=condition.name)
        self._graph.register_initializer(condition)

    def bound(self, name: str) -> ir.Value:
        """Return a tensor of the product as an input of the graph or as a constant."""
        tensor = self._tensors[name]
        if not self._inputs:
            return self.constant(name, tensor)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=_FLOAT)
        self._graph.inputs.append(value)
        return value

    def chunks(self, stage: int) -> list[ir.Value]:
        """Return a stage's memory bank in chunks [m,C_s] of rows, m <= 1024."""
        scope, name = f"search_{stage}", f"bank_{stage}"
        bank = self._tensors[name]
        starts = range(0, len(bank), CHUNK_ROWS)
        if not self._inputs:
            return [
                self.constant(f"{name}/{start}", bank[start : start + CHUNK_ROWS])
                for start in starts
            ]
        whole = self.bound(name)
        if len(starts) == 1:
            return [whole]
        ranges = [(start, min(start + CHUNK_ROWS, len(bank))) for start in starts]
        axis = self.integers(0)
        return [
            self.node(scope, "Slice", whole, self.integers(start), self.integers(stop), axis)
            for start, stop in ranges
        ]

    def search(self, stage: int, features: ir.Value, width: int) -> ir.Value:
        """Return the largest cosine of features [B,N_s,C_s] to the memory bank, [B N_s]."""
        scope = f"search_{stage}"
        tokens = self.node(scope, "Reshape", features, self.integers(-1, width))
        best: ir.Value | None = None
        for rows in self.chunks(stage):
            cosine = self.node(scope, "Gemm", tokens, rows, transB=1)  # [B N_s,m]
            nearest = self.node(scope, "ReduceMax", cosine, self.integers(1), keepdims=0)
            best = nearest if best is None else self.node(scope, "Max", best, nearest)
        if best is None:
            raise AssertionError("a profile's memory bank has rows")
        return best

    def plane(self, best: ir.Value, grid: tuple[int, int], distance: str) -> ir.Value:
        """Turn cosines [B N_s] into distances [B,h_s,w_s], see `finishing.stage_distance`."""
        one = self.scalar("one", 1.0)
        plane = self.node(_FINISH, "Sub", one, best)
        if distance == "log":
            plane = self.node(_FINISH, "Max", plane, self.scalar("zero", 0.0))
            plane = self.node(_FINISH, "Div", plane, self.scalar("log_scale", LOG_SCALE))
            plane = self.node(_FINISH, "Log", self.node(_FINISH, "Add", plane, one))
        return self.node(_FINISH, "Reshape", plane, self.integers(-1, *grid))

    def upsample(self, plane: ir.Value, grid: tuple[int, int], height: int, width: int) -> ir.Value:
        """Upsample distances [B,h_s,w_s] to [B,H,W], bilinear with aligned corners."""
        up_y = upsampling_matrix(grid[0], height)  # [H,h_s]
        up_x = np.ascontiguousarray(upsampling_matrix(grid[1], width).T)  # [w_s,W]
        tall = self.node(
            _FINISH, "MatMul", self.constant(f"{_FINISH}/up_{grid[0]}_to_{height}", up_y), plane
        )
        wide = self.constant(f"{_FINISH}/up_{grid[1]}_to_{width}_transposed", up_x)
        return self.node(_FINISH, "MatMul", tall, wide)

    def deviation(self, anomaly_map: ir.Value, axes: ir.Value) -> ir.Value:
        """Return the population standard deviation [B] of a map [B,H,W]."""
        mean = self.node(_FINISH, "ReduceMean", anomaly_map, axes, keepdims=1)
        apart = self.node(_FINISH, "Sub", anomaly_map, mean)
        square = self.node(_FINISH, "Mul", apart, apart)
        variance = self.node(_FINISH, "ReduceMean", square, axes, keepdims=0)
        return self.node(_FINISH, "Sqrt", variance)

    def verdict(
        self, anomaly_map: ir.Value, own_score: ir.Value | None, statistic: str
    ) -> tuple[ir.Value, ir.Value]:
        """Return score and reject, both [B]."""
        axes = self.integers(1, 2)
        if statistic == "std":
            score = self.deviation(anomaly_map, axes)
        else:
            score = self.node(_FINISH, "ReduceMax", anomaly_map, axes, keepdims=0)
        if own_score is not None:
            peak = self.node(_FINISH, "Mul", score, self.bound("peak_scale"))
            both = self.node(_FINISH, "Add", own_score, peak)
            score = self.node(_FINISH, "Mul", both, self.scalar("half", 0.5))
        mean = self.node(_FINISH, "ReduceMean", anomaly_map, axes, keepdims=0)
        witness = self.node(_FINISH, "Add", mean, score)  # finite if all of them are
        is_nan = self.node(_FINISH, "IsNaN", witness)
        broken = self.node(_FINISH, "Or", is_nan, self.node(_FINISH, "IsInf", witness))
        above = self.node(_FINISH, "Greater", score, self.bound("threshold"))
        reject = self.node(_FINISH, "Or", above, broken)
        return self.node(_FINISH, "Where", broken, self.scalar("nan", np.nan), score), reject


def _typed(
    value: ir.Value, name: str, dtype: ir.DataType, shape: list[int | ir.SymbolicDim]
) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    return value
