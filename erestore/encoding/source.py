"""Where what is to be encoded comes from: tensors of a checkpoint held against a parent, or values that are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from erestore.encoding.profile import Profiled
from erestore.encoding.quality import Quality
from erestore.encoding.target import Target
from erestore.encoding.tensor_encoder import TensorEncoder

if TYPE_CHECKING:
    import torch


class DeltaSource(ABC):
    """Originals minus parents, tensor by tensor; asked by several threads at once."""

    @abstractmethod
    def profile(self, target: Target, quality: Quality) -> Profiled:
        """Look at one target for the first time."""

    @abstractmethod
    def encoder(self, target: Target, profiled: Profiled, basis: torch.Tensor | None) -> TensorEncoder:
        """Open one target that changed, for an encoding.

        Parameters
        ----------
        target : Target
        profiled : Profiled
            What :meth:`profile` found, without its basis.
        basis : torch.Tensor or None
            That, where the profile has a spectrum.
        """
