"""Teacher outputs on disk, so that later epochs and restarts spend no forward pass on them.

Kept per row: the head's input at the KD positions (float32: the head is applied again, far smaller
than storing logits of a large vocabulary) and Q, K, V of the relation layers (float16: only their
directions matter). The directory is named by the content of teacher and data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.loader import Batch
from wrinklefree.data.packing import TokenRows
from wrinklefree.errors import UsageError
from wrinklefree.training.forward import QKV
from wrinklefree.training.objective import TeacherOutputs, state_widths
from wrinklefree.training.teacher import Teacher


def model_fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over the names and values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        values = parameter.detach().contiguous().cpu().view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


class CachedTeacher:
    """A teacher that computes each row once; read it as you would the teacher."""

    def __init__(self, teacher: Teacher, rows: TokenRows, directory: Path) -> None:
        objective = teacher.objective
        if objective.layerwise_weight > 0:
            raise UsageError(
                "training.cache_teacher=true does not keep the hidden states of all layers (too "
                "large); switch it off or set training.layerwise_weight=0"
            )
        self.teacher = teacher
        self._token_offsets = rows.offsets
        is_kept = np.ones(len(rows.tokens)) if objective.kd_everywhere else rows.targets != IGNORE
        self._hidden_offsets = np.concatenate([[0], np.cumsum(is_kept)]).astype(int)[rows.offsets]

        q_width, kv_width = state_widths(teacher.model)
        self._widths = (q_width, kv_width, kv_width)
        layers = sorted(set(teacher.layer_of.values()))  # the teacher's own numbers
        self.directory = directory / self._key(rows, layers)
        self.directory.mkdir(parents=True, exist_ok=True)
        hidden_shape = (int(self._hidden_offsets[-1]), int(teacher.model.config.hidden_size))
        self._hidden = self._array("hidden.f32", np.float32, hidden_shape)
        self._relation = {
            layer: self._array(
                f"relation{layer}.f16", np.float16, (len(rows.tokens), sum(self._widths))
            )
            for layer in layers
        }
        self._is_done = self._array("done.u8", np.uint8, (len(rows),))

    def __call__(self, batch: Batch) -> TeacherOutputs:
        """As the teacher, up to the storage types."""
        rows = list(batch.row_indices)
        if not self._is_done[rows].all():
            self._store(batch)
            self._flush()
            self._is_done[rows] = 1
        return self._load(batch)

    def _key(self, rows: TokenRows, layers: list[int]) -> str:
        teacher = self.teacher
        key = {
            "teacher": model_fingerprint(teacher.model),
            "rows": rows.fingerprint(),
            "kd_everywhere": teacher.objective.kd_everywhere,
            "layers": layers,
            "dtype": teacher.precision.name,
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]

    def _array(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A file-backed array; a new one is sparse and reads as zeros."""
        path = self.directory / name
        mode: Any = "r+" if path.is_file() else "w+"
        if 0 in shape:  # an empty file cannot be mapped
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, mode, shape=shape)

    def _hidden_span(self, row: int) -> slice:
        return slice(int(self._hidden_offsets[row]), int(self._hidden_offsets[row + 1]))

    def _token_span(self, row: int) -> slice:
        return slice(int(self._token_offsets[row]), int(self._token_offsets[row + 1]))

    def _store(self, batch: Batch) -> None:
        hidden = self.teacher.decode(batch)
        where_BL = self.teacher.objective.kd_positions_BL(batch)
        for number, row in enumerate(batch.row_indices):
            picked_PD = hidden.last_BLD[number][where_BL[number]]
            self._hidden[self._hidden_span(row)] = picked_PD.float().cpu().numpy()
            span = self._token_span(row)
            for own, layer in self.teacher.layer_of.items():
                # [H, L, N] each, side by side as [L, W]
                states = (
                    state[number].transpose(0, 1).flatten(1) for state in hidden.relation[own]
                )
                flat = torch.cat(list(states), dim=-1)[: span.stop - span.start]
                self._relation[layer][span] = flat.to(torch.float16).cpu().numpy()

    def _flush(self) -> None:
        """Waits until the states are on disk: after a power failure a mark without them would
        make zeros of them."""
        for array in (self._hidden, *self._relation.values()):
            if isinstance(array, np.memmap):
                array.flush()

    def _load(self, batch: Batch) -> TeacherOutputs:
        hidden = np.concatenate([self._hidden[self._hidden_span(row)] for row in batch.row_indices])
        head = self.teacher.head(torch.from_numpy(hidden).to(batch.tokens_BL.device))
        spans = [self._token_span(row) for row in batch.row_indices]
        relation = {
            own: self._unpack(self._relation[layer], spans, batch)
            for own, layer in self.teacher.layer_of.items()
        }
        return TeacherOutputs(head, (), relation)

    def _unpack(self, store: npt.NDArray[Any], spans: Sequence[slice], batch: Batch) -> QKV:
        """Q, K, V as one head of full width each, [B, 1, L, W]; padding is 0."""
        rows, length = batch.tokens_BL.shape
        padded = np.zeros((rows, 1, length, sum(self._widths)), np.float32)
        for number, span in enumerate(spans):
            padded[number, 0, : span.stop - span.start] = store[span]
        states = torch.from_numpy(padded).to(batch.tokens_BL.device)
        q, k, v = torch.split(states, list(self._widths), dim=-1)
        return q, k, v
