"""Three little encoders in plain ONNX operators, with frozen weights, in a bundle's form.

image [B,H,W,3] -> (image / 255 - 0.5) -> 3 x 3 convolutions of stride 2, each with a ReLU
features_s = L2-normalised rows of a 1 x 1 convolution of a tap          [B,N_s,C_s]
text_map   = sum over s of up(sigmoid(10 features_s P_s (t_1 - t_0)))    [B,H,W]
text_score = sigmoid(1.5 v . (t_1 - t_0)), v the unit mean of the last tap, projected

The third takes a template T, features of its stage t, in place of text vectors:

features_s     = rows of a 1 x 1 convolution of a tap, of any length       [B,N_s,C_s]
rebuilt        = softmax(0.5 features_t T^T) T                             [B,N_t,C_t]
difference_map = up(|features_t - rebuilt|)                                [B,H,W]
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 9
JOINT_DIM = 6
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """What an encoder is made of.

    `widths` are of the convolutions, `strides` theirs; `taps` say behind which of them a stage
    lies, `stage_widths` are C_s. `template_stage` is t of a network with a template.
    """

    seed: int
    height: int
    width: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    taps: tuple[int, ...]
    stage_widths: tuple[int, ...]
    has_text_tower: bool
    template_stage: int | None = None

    def grid(self, stage: int) -> tuple[int, int]:
        """Return h_s and w_s: a stride of 2 with a padding of 1 rounds upwards."""
        height, width = self.height, self.width
        for stride in self.strides[: self.taps[stage] + 1]:
            height, width = -(-height // stride), -(-width // stride)
        return height, width


PLAIN = Network(101, 32, 28, (8, 10, 12, 12), (2, 2, 2, 1), (1, 2, 3), (6, 8, 10), False)
TEXT = Network(202, 24, 36, (8, 10, 12), (2, 2, 2), (1, 2), (6, 9), True)
TEMPLATE = Network(303, 16, 20, (8, 10, 10), (2, 2, 1), (1, 2), (4, 6), False, template_stage=1)


def text_vectors(network: Network, n_words: int) -> list[Floats]:
    """Return text vectors [C,2] of some class words, unit columns."""
    rng = np.random.RandomState(network.seed + 1)
    drawn = [_weights(rng, 1.0, JOINT_DIM, 2) for _ in range(n_words)]
    return [vectors / np.linalg.norm(vectors, axis=0, keepdims=True) for vectors in drawn]


def write_network(network: Network, path: Path) -> None:
    """Write an encoder."""
    graph = _Graph(network)
    model = helper.make_model(
        graph.build() if network.template_stage is None else graph.build_with_template(),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cff-conformance",
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Graph:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.rng = np.random.RandomState(network.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.GraphProto:
        net = self.network
        taps = self._convolutions()
        diff = self._add("MatMul", ["text", self._constant("sides", _column([-1.0, 1.0]))], "diff")
        features = [self._features(stage, taps[tap]) for stage, tap in enumerate(net.taps)]
        self._text_map(features, diff)
        outputs = [
            _value(name, ["batch", math.prod(net.grid(stage)), net.stage_widths[stage]])
            for stage, name in enumerate(features)
        ]
        outputs.append(_value("text_map", ["batch", net.height, net.width]))
        if net.has_text_tower:
            self._text_score(taps[-1], diff)
            outputs.append(_value("text_score", ["batch"]))
        return self._finish(_value("text", [JOINT_DIM, 2]), outputs)

    def build_with_template(self) -> onnx.GraphProto:
        net, stage = self.network, self.network.template_stage or 0
        taps = self._convolutions()
        features = [
            self._rows(index, taps[tap], f"features_{index}") for index, tap in enumerate(net.taps)
        ]
        self._difference_map(stage, features[stage])
        outputs = [
            _value(name, ["batch", math.prod(net.grid(index)), net.stage_widths[index]])
            for index, name in enumerate(features)
        ]
        outputs.append(_value("difference_map", ["batch", net.height, net.width]))
        shape = [math.prod(net.grid(stage)), net.stage_widths[stage]]
        return self._finish(_value("template", shape), outputs)

    def _finish(
        self, condition: onnx.ValueInfoProto, outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        image = helper.make_tensor_value_info(
            "image", TensorProto.UINT8, ["batch", self.network.height, self.network.width, 3]
        )
        inputs = [image, condition]
        return helper.make_graph(self.nodes, "encoder", inputs, outputs, self.constants)

    def _convolutions(self) -> list[str]:
        shades = self._add("Cast", ["image"], "shades", to=TensorProto.FLOAT)
        scaled = self._add("Div", [shades, self._constant("white", _column([255.0])[0])], "scaled")
        centred = self._add("Sub", [scaled, self._constant("half", _column([0.5])[0])], "centred")
        last = self._add("Transpose", [centred], "planes", perm=[0, 3, 1, 2])
        taps, n_in = [], 3
        for index, (n_out, stride) in enumerate(
            zip(self.network.widths, self.network.strides, strict=True)
        ):
            weights = _weights(self.rng, 1.6 / np.sqrt(n_in * 3), n_out, n_in, 3, 3)
            bias = _weights(self.rng, 0.1, n_out)
            inputs = [
                last,
                self._constant(f"conv_{index}.weight", weights),
                self._constant(f"conv_{index}.bias", bias),
            ]
            shape: dict[str, Any] = {
                "kernel_shape": [3, 3],
                "strides": [stride] * 2,
                "pads": [1] * 4,
            }
            found = self._add("Conv", inputs, f"conv_{index}", **shape)
            last = self._add("Relu", [found], f"tap_{index}")
            taps.append(last)
            n_in = n_out
        return taps

    def _features(self, stage: int, tap: str) -> str:
        head = f"head_{stage}"
        rows = self._rows(stage, tap, f"{head}.rows")
        axis = self._constant(f"{head}.axis", _sides(2))
        norms = self._add("ReduceL2", [rows, axis], f"{head}.norms", keepdims=1)
        return self._add("Div", [rows, norms], f"features_{stage}")

    def _rows(self, stage: int, tap: str, name: str) -> str:
        net = self.network
        n_in, n_out = net.widths[net.taps[stage]], net.stage_widths[stage]
        head = f"head_{stage}"
        inputs = [
            tap,
            self._constant(f"{head}.weight", _weights(self.rng, 1.0, n_out, n_in, 1, 1)),
            self._constant(f"{head}.bias", _weights(self.rng, 0.25, n_out)),
        ]
        planes = self._add("Conv", inputs, head, kernel_shape=[1, 1])
        shape = self._constant(f"{head}.shape", _sides(0, n_out, math.prod(net.grid(stage))))
        columns = self._add("Reshape", [planes, shape], f"{head}.columns")
        return self._add("Transpose", [columns], name, perm=[0, 2, 1])

    def _difference_map(self, stage: int, features: str) -> None:
        net = self.network
        columns = self._add("Transpose", ["template"], "template.columns", perm=[1, 0])
        products = self._add("MatMul", [features, columns], "template.products")
        half = self._constant("template.half", _column([0.5])[0])
        logits = self._add("Mul", [products, half], "template.logits")
        shares = self._add("Softmax", [logits], "template.shares", axis=-1)
        rebuilt = self._add("MatMul", [shares, "template"], "rebuilt")
        off = self._add("Sub", [features, rebuilt], "off")
        axis = self._constant("off.axis", _sides(2))
        norms = self._add("ReduceL2", [off, axis], "off.norms", keepdims=1)
        grid = self._constant("off.grid", _sides(0, *net.grid(stage)))
        plane = self._add("Reshape", [norms, grid], "off.plane")
        rows = self._constant("off.rows", bilinear(net.grid(stage)[0], net.height))
        sides = self._constant("off.sides", bilinear(net.grid(stage)[1], net.width).T)
        high = self._add("MatMul", [rows, plane], "off.high")
        self._add("MatMul", [high, sides], "difference_map")

    def _text_map(self, features: list[str], diff: str) -> None:
        net = self.network
        planes = []
        for stage, name in enumerate(features):
            joint = f"joint_{stage}"
            shape = (net.stage_widths[stage], JOINT_DIM)
            weights = self._constant(f"{joint}.weight", 10.0 * _weights(self.rng, 0.6, *shape))
            direction = self._add("MatMul", [weights, diff], f"{joint}.direction")
            logits = self._add("MatMul", [name, direction], f"{joint}.logits")
            shares = self._add("Sigmoid", [logits], f"{joint}.shares")
            grid = self._constant(f"{joint}.grid", _sides(0, *net.grid(stage)))
            plane = self._add("Reshape", [shares, grid], f"{joint}.plane")
            rows = self._constant(f"{joint}.rows", bilinear(net.grid(stage)[0], net.height))
            columns = self._constant(f"{joint}.columns", bilinear(net.grid(stage)[1], net.width).T)
            high = self._add("MatMul", [rows, plane], f"{joint}.high")
            planes.append(self._add("MatMul", [high, columns], f"{joint}.map"))
        self._add("Sum", planes, "text_map")

    def _text_score(self, tap: str, diff: str) -> None:
        weights = _weights(self.rng, 1.0, self.network.widths[-1], JOINT_DIM)
        pooled = self._add("GlobalAveragePool", [tap], "pooled")
        shape = self._constant("pooled.shape", _sides(0, self.network.widths[-1]))
        mean = self._add("Reshape", [pooled, shape], "pooled.mean")
        joint = self._add("MatMul", [mean, self._constant("score.weight", weights)], "score.joint")
        axis = self._constant("score.axis", _sides(1))
        norm = self._add("ReduceL2", [joint, axis], "score.norm", keepdims=1)
        unit = self._add("Div", [joint, norm], "score.unit")
        cosine = self._add("MatMul", [unit, diff], "score.cosine")
        scale = self._constant("score.scale", _column([1.5])[0])
        logit = self._add("Mul", [cosine, scale], "score.logit")
        share = self._add("Sigmoid", [logit], "score.share")
        self._add("Reshape", [share, self._constant("score.shape", _sides(-1))], "text_score")

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output


def bilinear(n_in: int, n_out: int) -> Floats:
    """Return the matrix [n_out,n_in] of bilinear interpolation with aligned corners."""
    positions = np.arange(n_out)[:, None] * ((n_in - 1) / max(n_out - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(positions - np.arange(n_in))).astype(np.float32)


def _weights(rng: np.random.RandomState, scale: float, *shape: int) -> Floats:
    """Return weights that float32 holds exactly."""
    return (np.rint(rng.uniform(-scale, scale, shape) * 1024) / 1024).astype(np.float32)


def _sides(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _column(values: list[float]) -> Floats:
    return np.array(values, np.float32)[:, None]


def _value(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
