"""Golden files: numbers that came from running the authors' or the peers' own code."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(os.environ.get("CLX_GOLDEN", Path(__file__).parent / "losses" / "golden"))


class Case:
    """One golden file: inputs as leaves that take gradients, hyperparameters, recorded draws."""

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        self.name = path.stem
        self.hyper = json.loads(str(data["hyper"]))
        self.aux = {k[4:]: torch.tensor(data[k]) for k in data.files if k.startswith("aux_")}
        self.inputs = {k[3:]: torch.tensor(data[k]) for k in data.files if k.startswith("in_")}
        self.grads = {k[5:]: torch.tensor(data[k]) for k in data.files if k.startswith("grad_")}
        self.expected = torch.tensor(data["expected"])
        for name in self.grads:
            self.inputs[name].requires_grad_()

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.inputs[name]
        except KeyError as e:
            raise AttributeError(name) from e
