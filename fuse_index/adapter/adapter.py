"""The adapter: maps a source's word embeddings to a target's, and carries gradients back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuse_index.adapter.layout import Counts, WordLayout
from fuse_index.adapter.maps import GroupMap, make_map
from fuse_index.adapter.mixed import SplitLayout, apply_split, pull_back_split, split_layout
from fuse_index.adapter.pairs import PairTable
from fuse_index.adapter.products import GroupProducts, require_finite
from fuse_index.bundle.kinds import AFFINE, CIRCULANT, has_faces
from fuse_index.bundle.layout import FALLBACK, order_groups
from fuse_index.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from fuse_index.bundle import Bundle, ModelIdentity


class Adapter:
    """Maps between two models' word tensors, one per word group.

    Words of ``p`` source and ``q`` target tokens use the map of their group: the t-product
    ``X * G`` with an adapter ``G`` of shape ``(k, d_src, d_tgt)``, with or without an intercept, or
    a map of another kind (:mod:`fuse_index.adapter.maps`). Words whose group has none, or that are
    longer than any group, use the ``fallback``, a t-product of ``k = 1``.

    Args:
        adapters: ``(k, d_src, d_tgt)`` by group name (``"1x2"``, ``"x2"``, ``"fallback"``), one
            dtype and device; empty for the identity of one model with itself.
        width: ``d_src`` and ``d_tgt``; needed for the identity, else read off the adapters.
        bundle: where they come from, if from a bundle.
        intercepts: ``(q, d_tgt)`` by group, added to its t-products; ``(1, d_tgt)`` for the
            fallback, added to every target token.
        maps: by group name, where it has no t-product.

    Raises:
        ShapeError: shapes, dtypes or devices differ between groups, or a value is not finite.
        OptionError: there is no fallback, or a group name is malformed.
    """

    def __init__(
        self,
        adapters: Mapping[str, Tensor],
        width: tuple[int, int] | None = None,
        bundle: Bundle | None = None,
        *,
        intercepts: Mapping[str, Tensor] | None = None,
        maps: Mapping[str, GroupMap] | None = None,
    ) -> None:
        self.bundle = bundle
        self.is_identity = not adapters
        self.group_names = order_groups([*adapters, *(maps or {})])
        self.maps: dict[int, GroupMap] = {}
        """By group, the maps that are no t-products."""
        if self.is_identity:
            self.products = _identity(width)
            return
        if FALLBACK not in adapters:
            raise OptionError(
                f"adapters of groups {list(self.group_names)}", expected=f"{FALLBACK!r} among them"
            )
        names = [name for name in self.group_names if name in adapters]
        self.products = GroupProducts(names, adapters, intercepts or {})
        """The t-products of the other groups."""
        for name, own in (maps or {}).items():
            self.maps[self.group_names.index(name)] = own.to(self.device, self.dtype)
        tubes = {self.group_names[i]: own.tube(self.source_width) for i, own in self.maps.items()}
        tubes |= zip(names, self.products.tubes, strict=True)
        self._pairs = PairTable(self.group_names, [tubes[name] for name in self.group_names])

    @property
    def faces(self) -> Tensor:
        """``(F, d_src, d_tgt)``: the faces of all t-products, one group after another."""
        return self.products.faces

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
        """``(k, d_src, d_tgt)``: the faces of one group's t-product, a view."""
        index = self.products.names.index(group)
        start, stop = self.products.face_offsets[index : index + 2].tolist()
        return self.faces[start:stop]

    @property
    def linear(self) -> bool:
        """Whether gradients are pulled back alike at every word."""
        return all(own.linear for own in self.maps.values())

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of every group's map, by group."""
        plain = AFFINE if len(self.products.intercepts) else CIRCULANT
        return {
            name: self.maps[i].kind if i in self.maps else plain
            for i, name in enumerate(self.group_names)
        }

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
        source: Tensor | None = None,
        source_start: int = 0,
        target_start: int = 0,
        length: int | None = None,
    ) -> Tensor:
        """Carry gradients of target embeddings to the source embeddings of the same words.

        The exact vector-Jacobian product of :meth:`apply`: word by word
        ``out[s] = sum over t < q of g[t] @ G[(t - s) mod k]^T`` for ``s < p`` where the map is a
        t-product.

        Args:
            target_grad: ``(target_rows, d_tgt)`` packed, or ``(b, L', d_tgt)`` padded.
            layout: the words.
            source: ``(source_rows, d_src)`` packed embeddings of the words, where the Jacobian is
                taken; needed unless the adapter is :attr:`linear`.
            source_start: position of the first word in the padded result.
            target_start: position of the first word in padded ``target_grad``.
            length: length of the padded result; ``None`` is just enough.

        Returns:
            ``(source_rows, d_src)``, or ``(b, length, d_src)`` with zeros outside the words.

        Raises:
            ShapeError: the rows do not fit the layout or the adapter.
            OptionError: a map is not linear, and there is no source.
        """
        if target_grad.ndim != 3:
            return self._pull_back_packed(target_grad, layout, source)
        packed = layout.pack_target(target_grad, target_start)
        out = self._pull_back_packed(packed, layout, source)
        if length is None:
            longest = int(layout.source_lengths.max()) if layout.prompts else 0
            length = source_start + longest
        return layout.pad_source(out, length, source_start)

    def _pull_back_packed(
        self, packed: Tensor, layout: WordLayout, source: Tensor | None
    ) -> Tensor:
        self._check("pull_back: target_grad", packed, layout.target_rows, self.target_width)
        if self.is_identity:
            return packed.clone()
        grad = packed.to(self.dtype)
        if not self.maps:
            return self.products.pull_back(grad, layout).to(packed.dtype)
        if source is not None:
            self._check("pull_back: source", source, layout.source_rows, self.source_width)
            source = source.to(self.dtype)
        elif not self.linear:
            raise OptionError(
                f"pull_back through {self!r} without the embeddings of the words",
                expected="source=, because the Jacobian of its maps depends on the word",
            )
        split = self._split(layout)
        return pull_back_split(grad, split, source, self.products.pull_back).to(packed.dtype)

    def _split(self, layout: WordLayout) -> SplitLayout:
        return split_layout(layout, self.maps, self.source_width)

    def apply(self, source: Tensor, layout: WordLayout) -> Tensor:
        """Map source embeddings to the target's, for soft prompts and predictions.

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
        rows = source.to(self.dtype)
        if not self.maps:
            return self.products.apply(rows, layout).to(source.dtype)
        out = apply_split(rows, self._split(layout), self.products.apply)
        return out.to(source.dtype)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Adapter:
        """Return the adapter on another device or in another floating dtype.

        Raises:
            ShapeError: a value is beyond the range of the dtype.
        """
        other = Adapter.__new__(Adapter)
        other.__dict__.update(self.__dict__)
        place, kind = torch.device(device or self.device), dtype or self.dtype
        other.products = self.products.to(place, kind)
        other.maps = {i: own.to(place, kind) for i, own in self.maps.items()}
        for own in other.maps.values() if kind is not self.dtype else ():
            for tensor in own.tensors().values():
                require_finite(tensor)
        return other

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by a name each: faces, intercepts and those of other maps."""
        own = {"faces": self.faces, "intercepts": self.products.intercepts}
        for i, group_map in self.maps.items():
            name = self.group_names[i]
            own |= {f"{what}.{name}": tensor for what, tensor in group_map.tensors().items()}
        return own

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
        return cls.of_bundle(bundle).to(device, dtype)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Adapter:
        """Return the adapter of a bundle that was read, in its dtype."""
        manifest = bundle.manifest
        stored = bundle.maps.items()
        faces = {name: own for name, own in stored if has_faces(manifest.kind_of(name))}
        return cls(
            bundle.adapters,
            (manifest.source.width, manifest.target.width),
            bundle,
            intercepts={name: own["intercept"] for name, own in faces.items()},
            maps={
                name: make_map(manifest.kind_of(name), own)
                for name, own in stored
                if name not in faces
            },
        )

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
            adapters={name: own.float() for name, own in self.bundle.adapters.items()},
            maps={
                group: {name: tensor.float() for name, tensor in own.items()}
                for group, own in self.bundle.maps.items()
            },
            kinds=manifest.kinds,
            selection=manifest.selection,
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


def _identity(width: tuple[int, int] | None) -> GroupProducts:
    if width is None or width[0] != width[1]:
        raise OptionError(
            f"an adapter without groups and widths {width}",
            expected="adapters, or twice the same width for the identity",
        )
    return GroupProducts.identity(width)
