"""Heads: parameters of the paper, starts, and the forward pass against NumPy in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_edge.heads import CALIBRATORS, PROJECTOR_INITS, Head, MlpCalibrator
from cff_runtime.errors import UsageError

BATCHNORM_EPS = 1e-5  # PyTorch's default, as in the paper's block


def _tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _scrambled(head: Head, seed: int = 3) -> Head:
    """Give every parameter and running statistic a value of its own, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in head.double().state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values + 0.5 if name.endswith("var") else values - 0.5)
    return head.eval()


def _linear(state: dict[str, Tensor], name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
    return np.einsum("oi,bni->bno", weight, x) + bias


@pytest.mark.parametrize(
    ("width", "calibrator", "n_parameters"),
    [
        (768, "none", 2_362_368),
        (768, "affine", 2 * 2_362_368),
        (768, "mlp", 11_821_056),
        (1024, "none", 3_148_800),
        (1024, "affine", 5_511_168),
        (1024, "mlp", 12_607_488),
    ],
)
def test_parameter_counts_are_those_of_the_paper(
    width: int, calibrator: str, n_parameters: int
) -> None:
    head = Head([width] * 4, 768, calibrator, "default")
    assert sum(parameter.numel() for parameter in head.parameters()) == n_parameters


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_forward_equals_the_formulas(calibrator: str) -> None:
    head = _scrambled(Head([5, 9], 6, calibrator))
    stages = [_tokens(2, 4, 5), _tokens(2, 3, 9, seed=1)]
    state = {name: tensor.detach() for name, tensor in head.state_dict().items()}
    for stage, calibrated in enumerate(head(stages)):
        expected = _linear(state, f"projectors.{stage}", stages[stage].numpy())
        block = f"calibrators.{stage}"
        if calibrator == "affine":
            expected = _linear(state, block, expected)
        elif calibrator == "mlp":
            hidden = _linear(state, f"{block}.expand", expected)
            norm = {key: state[f"{block}.norm.{key}"].numpy() for key in ("weight", "bias")}
            mean = state[f"{block}.norm.running_mean"].numpy()
            variance = state[f"{block}.norm.running_var"].numpy()
            hidden = (hidden - mean) / np.sqrt(variance + BATCHNORM_EPS)
            hidden = np.maximum(hidden * norm["weight"] + norm["bias"], 0.0)
            expected = _linear(state, f"{block}.reduce", hidden)
        assert calibrated.shape == expected.shape
        np.testing.assert_allclose(calibrated.detach().numpy(), expected, atol=1e-12)


# --- composed and spans, which training uses


def _gradients(head: Head, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Of a weighted sum of the outputs, which tells every entry from the others."""
    total = sum((out * _tokens(*out.shape, seed=7)).sum() for out in outputs)
    assert isinstance(total, Tensor)
    parameters = {name: p for name, p in head.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("frozen", [None, "projectors", "calibrators"])
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_composed_equals_forward_in_values_and_gradients(
    calibrator: str, frozen: str | None
) -> None:
    head = _scrambled(Head([5, 9], 6, calibrator))
    if frozen:
        getattr(head, frozen).requires_grad_(False)
    stages = [_tokens(2, 4, 5), _tokens(2, 3, 9, seed=1)]
    expected, composed = head(stages), head.composed(stages)
    for out, reference in zip(composed, expected, strict=True):
        torch.testing.assert_close(out, reference, rtol=1e-12, atol=1e-12)
    if frozen == "projectors" and calibrator == "none":
        return  # nothing left to train
    gradients, references = _gradients(head, composed), _gradients(head, expected)
    assert gradients.keys() == references.keys() != set()
    for name, gradient in gradients.items():
        assert references[name].abs().max() > 0.1, name
        torch.testing.assert_close(gradient, references[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_composed_equals_forward_to_single_precision(calibrator: str) -> None:
    head, stages = _scrambled(Head([40], 64, calibrator)).float(), [_tokens(2, 30, 40).float()]
    torch.testing.assert_close(head.composed(stages), head(stages), rtol=1e-4, atol=1e-4)


def test_composed_drops_what_forward_drops() -> None:
    head, stages = _scrambled(Head([5, 9], 6, "mlp")), [_tokens(2, 4, 5), _tokens(2, 3, 9)]
    head.calibrators.train()
    outputs = []
    for forward in (head, head.composed, head.composed):
        torch.manual_seed(len(outputs) // 2)  # 0, 0 and another
        outputs.append(forward(stages))
    assert all(torch.equal(*pair) for pair in zip(outputs[0], outputs[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(outputs[0], outputs[2], strict=True))


@pytest.mark.parametrize("calibrator", ["none", "affine"])
@pytest.mark.parametrize("trained", [False, True])
def test_features_lie_in_their_span(calibrator: str, trained: bool) -> None:
    torch.manual_seed(0)
    head = Head([3, 7, 15], 32, calibrator).double()
    if trained:  # untrained biases are zero
        _scrambled(head)
    stages = [_tokens(2, 20, width, seed=width) for width in head.widths]
    for span, calibrated, width in zip(head.spans(), head(stages), head.widths, strict=True):
        assert span is not None
        assert not span.requires_grad
        basis, features = span.numpy(), calibrated.detach().numpy()
        assert basis.shape == (32, width + 1)
        np.testing.assert_allclose(basis.T @ basis, np.eye(width + 1), atol=1e-12)
        scale = np.abs(features).max()
        np.testing.assert_allclose(features @ basis @ basis.T, features, atol=1e-12 * scale)
        # so that products with anything at all stay the same
        other = _tokens(4, 32, seed=9).numpy()
        expected = other @ features[0].T
        found = (other @ basis) @ (features[0] @ basis).T
        np.testing.assert_allclose(found, expected, atol=1e-11 * scale)


def test_there_is_no_span_where_it_would_save_little() -> None:
    def has_span(width: int, calibrator: str) -> bool:
        return Head([width], 32, calibrator, "default").spans()[0] is not None

    # E + 1 dimensions of 32: at most half
    assert [has_span(width, "affine") for width in (2, 15, 16, 40)] == [True, True, False, False]
    assert [has_span(width, "mlp") for width in (2, 15)] == [False, False]
    mixed = Head([15, 16, 4], 32, "none").spans()
    assert [span is None for span in mixed] == [False, True, False]


# --- starts


def test_untrained_affine_calibrator_changes_nothing() -> None:
    plain, affine = Head([7], 6, "none"), Head([7], 6, "affine")
    affine.projectors.load_state_dict(plain.projectors.state_dict())
    tokens = [_tokens(2, 5, 7).float()]
    assert torch.equal(affine(tokens)[0], plain(tokens)[0])


def test_untrained_mlp_calibrator_is_the_identity_to_batchnorms_epsilon() -> None:
    features = _tokens(2, 5, 6).float()
    calibrated = MlpCalibrator(6).eval()(features)
    torch.testing.assert_close(calibrated, features, rtol=1e-5, atol=1e-7)
    exact = features / np.sqrt(1.0 + BATCHNORM_EPS)
    torch.testing.assert_close(calibrated, exact, rtol=2e-7, atol=1e-7)


def test_batchnorm_takes_its_statistics_over_all_tokens() -> None:
    block = MlpCalibrator(3).double().train()
    features = _tokens(2, 5, 3)
    block(features)
    hidden = features.numpy().reshape(10, 3) @ block.expand.weight.detach().numpy().T
    # momentum 0.1 from mean 0 and variance 1; the variance is the unbiased one
    state = block.norm.state_dict()
    np.testing.assert_allclose(state["running_mean"], 0.1 * hidden.mean(axis=0), atol=1e-12)
    unbiased = hidden.var(axis=0, ddof=1)
    np.testing.assert_allclose(state["running_var"], 0.9 + 0.1 * unbiased, atol=1e-12)


def test_dropout_plays_a_part_in_training_alone() -> None:
    torch.manual_seed(0)
    block, features = MlpCalibrator(16), torch.ones(1, 64, 16)
    assert block.dropout.p == 0.1
    assert torch.equal(block.eval()(features), block(features))
    block.norm.eval()
    block.dropout.train()
    dropped = (block(features) == 0).double().mean()
    assert 0.05 < dropped < 0.15


@pytest.mark.parametrize("width", [4, 24, 32])
def test_orthonormal_start_keeps_every_cosine(width: int) -> None:
    head = Head([width], 32, "affine")
    tokens = _tokens(1, 20, width).float()
    raw = tokens[0].numpy().astype(np.float64)
    projected = head([tokens])[0][0].detach().numpy().astype(np.float64)
    np.testing.assert_allclose(projected @ projected.T, raw @ raw.T, rtol=1e-5, atol=1e-4)
    assert not head.state_dict()["projectors.0.bias"].any()


def test_default_start_is_pytorchs_own() -> None:
    torch.manual_seed(5)
    head = Head([8], 6, "none", "default")
    torch.manual_seed(5)
    assert torch.equal(head.state_dict()["projectors.0.weight"], nn.Linear(8, 6).weight)


@pytest.mark.parametrize("projector_init", PROJECTOR_INITS)
def test_one_seed_starts_every_kind_from_the_same_projectors(projector_init: str) -> None:
    starts = []
    for calibrator in CALIBRATORS:
        torch.manual_seed(9)
        starts.append(Head([7, 12], 16, calibrator, projector_init).projectors.state_dict())
    for start in starts[1:]:
        assert start.keys() == starts[0].keys()
        assert all(torch.equal(start[name], starts[0][name]) for name in start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrator": "linear"}, "`calibrator` must be one of none, affine, mlp, got 'linear'"),
        ({"projector_init": "zero"}, "`projector_init` must be one of default, orthonormal"),
    ],
)
def test_unknown_kinds_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Head([4], 4, **options)
