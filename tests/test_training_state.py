"""A torch file of a training run: the optimizer's numbers are kept whole and have no say in the error of the weights."""

import tiny
import torch

from erestore.api import Store


def training_file(path, weights, scale):
    moments = {name: {"exp_avg_sq": scale * tensor.float().square()} for name, tensor in weights.items()}
    torch.save({"state_dict": weights, "optimizer": {"state": moments}, "epoch": 3}, path)
    return path


def test_weights_keep_their_quality_beside_huge_moments(tmp_path):
    base = {name: tensor for name, tensor in tiny.base_weights().items() if tensor.ndim == 2}
    tuned = {name: tensor for name, tensor in tiny.tuned(base, 1).items() if name in base}
    before = training_file(tmp_path / "before.pt", base, scale=1e9)
    after = training_file(tmp_path / "after.pt", tuned, scale=1e12)
    store = Store.init(tmp_path / "store")
    done = store.commit(after, base=str(before), name="after")
    found = torch.load(store.checkout("after", tmp_path / "back.pt").path, weights_only=True)
    lost = moved = 0.0
    for name, tensor in tuned.items():
        rows = len(base[name])
        lost += float((found["state_dict"][name].double() - tensor.double())[:rows].square().sum())
        moved += float((tensor[:rows].double() - base[name].double()).square().sum())
    assert 0 < lost / moved <= 0.01
    assert abs(lost / moved - done.relative_error) < 1e-6
    for name, moment in torch.load(after, weights_only=True)["optimizer"]["state"].items():
        assert torch.equal(found["optimizer"]["state"][name]["exp_avg_sq"], moment["exp_avg_sq"])
    assert found["epoch"] == 3
