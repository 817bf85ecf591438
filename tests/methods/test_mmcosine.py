import pytest
import torch
from steps import configured, method_and_network, step
from torch.nn.functional import cosine_similarity, cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method


def test_logits_are_scaled_cosines() -> None:
    method, network = method_and_network("mmcosine", mmcosine__scale=7.0)
    batch = step()
    outputs = network(batch.audio, batch.visual)
    expected = {}
    for modality in ("audio", "visual"):
        weight = network.get_parameter(f"fusion.{modality}.weight")
        features = getattr(outputs, f"{modality}_features")
        expected[modality] = 7 * cosine_similarity(features[:, None], weight[None], dim=2)
        torch.testing.assert_close(getattr(outputs, modality), expected[modality])
    torch.testing.assert_close(outputs.fused, expected["audio"] + expected["visual"])
    terms = method.adaptive_terms(outputs, batch.labels, batch.index)
    assert terms.keys() == {"fusion"}
    torch.testing.assert_close(terms["fusion"], cross_entropy(outputs.fused, batch.labels))


def test_growing_features_change_nothing() -> None:
    _, network = method_and_network("mmcosine")
    audio, visual = torch.randn(4, network.features), torch.randn(4, network.features)
    torch.testing.assert_close(network.fusion(audio, visual), network.fusion(9 * audio, visual))


@pytest.mark.parametrize("fields", [{"model__fusion": "gated", "model__readout": "heads"}, {"model__readout": "heads"}])
def test_other_fusions_and_readouts_are_refused(fields: dict[str, str]) -> None:
    config = configured("mmcosine", **fields)
    with pytest.raises(UserError, match=r"mmcosine needs model\.fusion concat or sum and model\.readout=split"):
        find_method("mmcosine").check(config)
