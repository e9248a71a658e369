"""The adapter: carries gradients of the target's embeddings back to the source's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.layout import Counts, WordLayout
from fuse_index.bundle.layout import FALLBACK, order_groups, parse_group
from fuse_index.errors import OptionError, ShapeError
from fuse_index.ops import pull_back, push_forward

if TYPE_CHECKING:
    from fuse_index.bundle import Bundle, ModelIdentity


class Adapter:
    """Least-squares maps between two models' word tensors, one per word group.

    Words of ``p`` source and ``q`` target tokens use the group's adapter ``G`` of shape
    ``(k, d_src, d_tgt)`` with the t-product ``X * G`` ; words whose group has
    none, or that are longer than any group, use the ``fallback``, which has ``k = 1``.

    Args:
        adapters: ``(k, d_src, d_tgt)`` by group name (``"1x2"``, ``"x2"``, ``"fallback"``), one
            dtype and device; empty for the identity of one model with itself.
        width: ``d_src`` and ``d_tgt``; needed for the identity, else read off the adapters.
        bundle: where they come from, if from a bundle.

    Raises:
        ShapeError: shapes, dtypes or devices differ between groups, or a value is not finite.
        OptionError: there is no fallback, or a group name is malformed.
    """

    def __init__(
        self,
        adapters: Mapping[str, Tensor],
        width: tuple[int, int] | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        self.bundle = bundle
        self.is_identity = not adapters
        self.group_names = order_groups(adapters)
        if self.is_identity:
            self._init_identity(width)
            return
        if FALLBACK not in adapters:
            raise OptionError(
                f"adapters of groups {list(self.group_names)}", expected=f"{FALLBACK!r} among them"
            )
        _check_adapters(adapters)
        ordered = [adapters[name] for name in self.group_names]
        self.faces = torch.cat(ordered)
        _require_finite(self.faces)
        """``(F, d_src, d_tgt)``: the faces of all groups, one group after another."""
        self.tubes = tuple(len(faces) for faces in ordered)
        """Tube length ``k`` of every group."""
        self._set_offsets()
        self._pairs = _PairTable(self.group_names, self.tubes)

    def _init_identity(self, width: tuple[int, int] | None) -> None:
        if width is None or width[0] != width[1]:
            raise OptionError(
                f"an adapter without groups and widths {width}",
                expected="adapters, or twice the same width for the identity",
            )
        self.faces = torch.zeros(0, *width)
        self.tubes = ()
        self._set_offsets()

    def _set_offsets(self) -> None:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.tubes, dtype=np.int64)])
        self.face_offsets = torch.from_numpy(offsets).to(self.faces.device)
        """``(groups + 1,)`` int64: where each group's faces begin."""

    @property
    def source_width(self) -> int:
        """Width of the source's embeddings, ``d_src``."""
        return self.faces.shape[1]

    @property
    def target_width(self) -> int:
        """Width of the target's embeddings, ``d_tgt``."""
        return self.faces.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the adapters are."""
        return self.faces.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the adapters."""
        return self.faces.dtype

    def __getitem__(self, group: str) -> Tensor:
        """``(k, d_src, d_tgt)``: the adapter of one group, a view."""
        index = self.group_names.index(group)
        start, stop = sum(self.tubes[:index]), sum(self.tubes[: index + 1])
        return self.faces[start:stop]

    def group_of(self, source_counts: Counts, target_counts: Counts) -> NDArray[np.int64]:
        """Say which adapter each word uses.

        Args:
            source_counts: ``(n,)``, source tokens of every word.
            target_counts: ``(n,)``, target tokens of every word.

        Returns:
            ``(n,)`` int64 positions in ``group_names``; zeros for the identity.
        """
        p, q = np.asarray(source_counts, np.int64), np.asarray(target_counts, np.int64)
        if self.is_identity:
            return np.zeros(len(p), np.int64)
        return self._pairs.look_up(p, q)

    def layout(
        self, source_counts: Counts, target_counts: Counts, words_per_prompt: Counts | None = None
    ) -> WordLayout:
        """Lay out words of one or several prompts, with the adapter each of them uses.

        Args:
            source_counts: ``(n,)``, source tokens of every word of all prompts.
            target_counts: ``(n,)``, target tokens of every word.
            words_per_prompt: ``(b,)``, summing to n; ``None`` is one prompt.

        Returns:
            The layout, on the adapter's device.
        """
        groups = self.group_of(source_counts, target_counts)
        return WordLayout.from_counts(
            source_counts, target_counts, groups, words_per_prompt, self.device
        )

    def pull_back(
        self,
        target_grad: Tensor,
        layout: WordLayout,
        *,
        source_start: int = 0,
        target_start: int = 0,
        length: int | None = None,
    ) -> Tensor:
        """Carry gradients of target embeddings to the source embeddings of the same words.

        The exact vector-Jacobian product of :meth:`apply`: word by word
        ``out[s] = sum over t < q of g[t] @ G[(t - s) mod k]^T`` for ``s < p``.

        Args:
            target_grad: ``(target_rows, d_tgt)`` packed, or ``(b, L', d_tgt)`` padded.
            layout: the words.
            source_start: position of the first word in the padded result.
            target_start: position of the first word in padded ``target_grad``.
            length: length of the padded result; ``None`` is just enough.

        Returns:
            ``(source_rows, d_src)``, or ``(b, length, d_src)`` with zeros outside the words.

        Raises:
            ShapeError: the rows do not fit the layout or the adapter.
        """
        if target_grad.ndim != 3:
            return self._pull_back_packed(target_grad, layout)
        out = self._pull_back_packed(layout.pack_target(target_grad, target_start), layout)
        if length is None:
            longest = int(layout.source_lengths.max()) if layout.prompts else 0
            length = source_start + longest
        return layout.pad_source(out, length, source_start)

    def _pull_back_packed(self, packed: Tensor, layout: WordLayout) -> Tensor:
        self._check("pull_back: target_grad", packed, layout.target_rows, self.target_width)
        if self.is_identity:
            return packed.clone()
        return pull_back(
            packed.to(self.dtype),
            self.faces,
            self.face_offsets,
            layout.groups,
            layout.source_offsets,
            layout.target_offsets,
            layout.source_rows,
        ).to(packed.dtype)

    def apply(self, source: Tensor, layout: WordLayout) -> Tensor:
        """Map source embeddings linearly to the target's, ``X * G``, for soft prompts.

        Args:
            source: ``(source_rows, d_src)`` packed.
            layout: the words.

        Returns:
            ``(target_rows, d_tgt)`` packed.

        Raises:
            ShapeError: the rows do not fit the layout or the adapter.
        """
        self._check("apply: source", source, layout.source_rows, self.source_width)
        if self.is_identity:
            return source.clone()
        return push_forward(
            source.to(self.dtype),
            self.faces,
            self.face_offsets,
            layout.groups,
            layout.source_offsets,
            layout.target_offsets,
            layout.target_rows,
        ).to(source.dtype)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Adapter:
        """Return the adapter on another device or in another floating dtype.

        Raises:
            ShapeError: a value is beyond the range of the dtype.
        """
        other = Adapter.__new__(Adapter)
        other.__dict__.update(self.__dict__)
        other.faces = self.faces.to(device=device or self.device, dtype=dtype or self.dtype)
        other.face_offsets = self.face_offsets.to(other.faces.device)
        if other.dtype is not self.dtype:
            _require_finite(other.faces)
        return other

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        source: ModelIdentity | None = None,
        target: ModelIdentity | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """Load the adapter of a bundle; everything is verified before use.

        From the Hub or a URL only words and adapters are fetched, once, all of one revision.

        Args:
            path: the bundle's folder; ``owner/name[@revision]`` of the Hub; or an fsspec URL. A
                folder of that name comes first.
            source: the source model at hand, compared with the bundle's; ``None`` does not compare.
            target: the target model at hand, likewise.
            device: where the adapters go.
            dtype: their dtype.
            revision: branch, tag or commit of the Hub.
            token: of the Hub; ``None`` takes the one that ``hf auth login`` stored.
            local_files_only: take what the cache holds; no network.
            storage_options: what fsspec makes the file system of a URL with.

        Raises:
            BundleError: the bundle is damaged.
            IdentityError: it was built for other models.
            RemoteError: it is not there, may not be read, or cannot be reached.
            OptionError: the name is malformed.
        """
        from fuse_index.bundle import read_bundle  # noqa: PLC0415 - numpy and safetensors
        from fuse_index.share.pull import locate  # noqa: PLC0415 - so is this

        folder = locate(
            path,
            revision=revision,
            token=token,
            storage_options=storage_options,
            local_files_only=local_files_only,
        )
        bundle = read_bundle(folder, expect_source=source, expect_target=target)
        widths = bundle.manifest.source.width, bundle.manifest.target.width
        return cls(bundle.adapters, widths, bundle).to(device, dtype)

    def save_pretrained(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the bundle this adapter came from, without group tensors and index.

        Args:
            path: the folder to make.
            overwrite: whether an existing bundle may be replaced.

        Raises:
            OptionError: the adapter was not loaded from a bundle, so that its words are unknown.
            StorageError: the folder exists or cannot be written.
        """
        from fuse_index.bundle import BundleContents, write_bundle  # noqa: PLC0415

        if self.bundle is None:
            raise OptionError(
                "an adapter without a bundle",
                expected="one from Adapter.from_pretrained or fuse_index.build",
                remedy="write_bundle(BundleContents(...)) stores adapters of your own",
            )
        manifest = self.bundle.manifest
        contents = BundleContents(
            source=manifest.source,
            target=manifest.target,
            table=self.bundle.table,
            adapters={name: self[name].float().cpu() for name in self.group_names},
            corpus_sha256=manifest.corpus_sha256,
            options=manifest.options,
            left_out=manifest.left_out,
            fallbacks=manifest.fallbacks,
            quality=manifest.quality,
            identity=manifest.identity,
            published=manifest.published,
        )
        write_bundle(path, contents, overwrite)

    def _check(self, what: str, rows: Tensor, count: int, width: int) -> None:
        if rows.shape != (count, width):
            raise ShapeError(
                f"{what} has shape {tuple(rows.shape)}",
                expected=f"({count}, {width}): the rows of the layout, the width of the adapter",
            )

    def __repr__(self) -> str:
        groups = "identity" if self.is_identity else ", ".join(self.group_names)
        return f"Adapter({self.source_width} -> {self.target_width}, {groups}, {self.dtype})"


class _PairTable:
    """Looks up the group of a (p, q) pair; what it does not know uses the fallback."""

    def __init__(self, names: tuple[str, ...], tubes: tuple[int, ...]) -> None:
        self.fallback = names.index(FALLBACK)
        keys = [parse_group(name) for name in names]
        longest = max(tubes)
        self.table = np.full((longest + 1, longest + 1), self.fallback, np.int64)
        for index, (key, k) in enumerate(zip(keys, tubes, strict=True)):
            if key.target_count == 0:
                continue
            # A group that fixes q alone serves every p that its tube has room for.
            sources = (
                slice(key.source_count, key.source_count + 1)
                if key.source_count
                else slice(1, k + 1)
            )
            self.table[sources, key.target_count] = index

    def look_up(self, p: NDArray[np.int64], q: NDArray[np.int64]) -> NDArray[np.int64]:
        known = (p >= 0) & (q >= 0) & (p < len(self.table)) & (q < len(self.table))
        found = self.table[np.where(known, p, 0), np.where(known, q, 0)]
        return np.where(known, found, self.fallback)


def _require_finite(faces: Tensor) -> None:
    """Refuse NaN and infinity, such as values that a conversion has taken out of range.

    Raises:
        ShapeError: there are some.
    """
    if not bool(torch.isfinite(faces).all()):
        raise ShapeError(
            f"adapters that are not finite in {faces.dtype}",
            expected=f"finite values, at most {torch.finfo(faces.dtype).max:.3g}",
            remedy="use a wider dtype, or build the bundle again",
        )


def _check_adapters(adapters: Mapping[str, Tensor]) -> None:
    first = adapters[FALLBACK]
    for name, faces in adapters.items():
        if (
            faces.ndim != 3
            or faces.shape[1:] != first.shape[1:]
            or faces.dtype != first.dtype
            or faces.device != first.device
            or not faces.is_floating_point()
        ):
            raise ShapeError(
                f"adapter {name!r} has shape {tuple(faces.shape)}, {faces.dtype}, {faces.device}",
                expected=f"(k, {first.shape[-2]}, {first.shape[-1]}), {first.dtype}, "
                f"{first.device}, as the fallback has",
            )
        key = parse_group(name)
        if len(faces) < key.smallest_tube or (
            key.tube_is_fixed and len(faces) != key.smallest_tube
        ):
            raise ShapeError(
                f"adapter {name!r} has {len(faces)} faces", expected=f"k = {key.smallest_tube}"
            )
