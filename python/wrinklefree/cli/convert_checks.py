"""`wf-convert --verify`: which checks a written model passes before it gets its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wrinklefree.cli.convert_report import progress_bar, size
from wrinklefree.errors import FormatError, UsageError

if TYPE_CHECKING:
    from wrinklefree.convert.plan import Plan
    from wrinklefree.convert.source import Source
    from wrinklefree.convert.to_hf import Form

LEVELS = ("none", "tensors", "logits", "full", "llama.cpp")


@dataclass(frozen=True, slots=True)
class Checks:
    """What to check. Every method raises VerificationError (exit code 3) when a check fails."""

    level: str
    text_file: Path | None
    is_quiet: bool

    def refuse(self, source: Source, plan: Plan | None) -> None:
        """Raises UsageError, before anything is written, for a check that cannot be made."""
        if self.text_file is not None and self.level not in ("full", "llama.cpp"):
            raise UsageError("--text belongs to --verify full and --verify llama.cpp")
        if self.level != "llama.cpp":
            return
        if plan is None:
            raise UsageError("--verify llama.cpp belongs to --to gguf")
        from wrinklefree.convert.agreement import engine_limit
        from wrinklefree.convert.llama_cpp import check_installed

        limit = plan.llama_cpp_limit or engine_limit(source)
        if limit:
            raise UsageError(f"--verify llama.cpp: {limit}")

        check_installed()

    def of_file(self, plan: Plan, path: Path) -> dict[str, Any]:
        """Checks a GGUF file against its plan and the plan's source."""
        if self.level == "none":
            return {}
        from wrinklefree.convert.verify import verify_metadata, verify_tensors, verify_tokens

        verify_metadata(plan, path)
        with progress_bar("verifying", self.is_quiet) as show:
            done: dict[str, Any] = {"tensors": verify_tensors(plan, path, show)}
        if self.level == "tensors":
            self._print(done)
            return done
        from wrinklefree.convert import agreement

        source = plan.source.path
        if source.is_dir():  # from a file the keys are copied, and were compared above
            done["token_strings"] = verify_tokens(source, path)
        if limit := agreement.engine_limit(plan.source):
            return self._without_logits(done, limit)
        is_rounded = agreement.rounds_embeddings(plan)
        if is_rounded:
            logits = agreement.verify_logits_but_embeddings(plan, path)
        else:
            logits = agreement.verify_logits(source, path)
        done["logits"] = asdict(logits)
        if self.level != "logits":
            measure = agreement.compare_perplexity if is_rounded else agreement.verify_perplexity
            done["perplexity"] = asdict(measure(source, path, self._text()))
        if self.level == "llama.cpp":
            from wrinklefree.convert.llama_cpp import verify_in_llama_cpp

            done["llama_cpp"] = asdict(verify_in_llama_cpp(source, path, self._text()))
        self._print(done)
        if is_rounded:
            self._print_embeddings(plan, done)
        return done

    def of_directory(self, source: Source, directory: Path, form: Form) -> dict[str, Any]:
        """Checks a directory against the source that it comes from."""
        if self.level == "none":
            return {}
        from wrinklefree.convert.verify import verify_directory, verify_tokens

        done: dict[str, Any] = {"tensors": verify_directory(source, directory, form)}
        if self.level != "tensors":
            from wrinklefree.convert.agreement import (
                engine_limit,
                verify_logits,
                verify_perplexity,
            )

            if source.path.is_file():  # from a directory the tokenizer's files are copied
                done["token_strings"] = verify_tokens(directory, source.path)
            if limit := engine_limit(source):
                return self._without_logits(done, limit)
            done["logits"] = asdict(verify_logits(source.path, directory))
            if self.level == "full" and form.value != "float":
                agreement = verify_perplexity(source.path, directory, self._text())
                done["perplexity"] = asdict(agreement)
        self._print(done)
        return done

    def _without_logits(self, done: dict[str, Any], limit: str) -> dict[str, Any]:
        done["logits_not_compared"] = limit
        self._print(done)
        return done

    def _text(self) -> str:
        if self.text_file is None:
            from wrinklefree.convert.corpus import PROSE

            return PROSE
        try:
            return self.text_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.text_file} cannot be read: {error}") from None

    def _print(self, done: dict[str, Any]) -> None:
        lines = [f"{done['tensors']} tensors read back equal"]
        if "token_strings" in done:
            lines.append(f"{done['token_strings']} strings with equal token ids")
        if "logits_not_compared" in done:
            lines.append(f"logits not compared: {done['logits_not_compared']}")
        if "logits" in done:
            lines.append(f"logits within a mean KL of {done['logits']['mean_kl']:.1e} nats")
        if "perplexity" in done:
            found = done["perplexity"]
            lines.append(
                f"perplexity {found['written']:.5g}, the source's {found['source']:.5g}, on "
                f"{found['tokens']} tokens"
            )
        if "llama_cpp" in done:
            found = done["llama_cpp"]
            ours, theirs = found["source_perplexity"], found["written_perplexity"]
            lines.append(
                f"llama.cpp within {found['max_logprob_difference']:.3f} nats and "
                f"{found['greedy_steps']} equal steps, perplexity {theirs:.5g}, the source's "
                f"{ours:.5g}, on {found['tokens']} tokens"
            )
        if not self.is_quiet:
            click.echo("verified: " + ", ".join(lines))

    def _print_embeddings(self, plan: Plan, done: dict[str, Any]) -> None:
        """What a few bits for the embedding save and cost."""
        from wrinklefree.convert.types import F16

        taken = sum(tensor.num_bytes for tensor in plan.embeddings)
        f16 = sum(F16.num_bytes(tensor.shape) for tensor in plan.embeddings)
        cost = f"a mean KL of {done['logits']['mean_kl']:.1e} nats"
        if "perplexity" in done:
            found = done["perplexity"]
            cost += f" and {found['written'] / found['source'] - 1:+.2%} of perplexity"
        if not self.is_quiet:
            kind = plan.embeddings[0].type.name
            click.echo(f"embedding in {kind}: {size(taken)}, in F16 {size(f16)}; it costs {cost}")
