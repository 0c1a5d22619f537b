"""`tinyrnn generate`: tokens or text from a model whose output goes back into its input."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from tinyrnn.cli.options import json_option, model_options, print_json, progress_bar
from tinyrnn.errors import LoadError

if TYPE_CHECKING:
    from tinyrnn.decode import Decoder

SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def _tokens(option: str, text: str, vocabulary: str | None) -> list[int]:
    """Tokens from text in the model's characters, or from numbers separated by commas."""
    from tinyrnn.data.vocabulary import encode

    if vocabulary is not None:
        return [int(n) for n in encode(text, vocabulary)]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(
            f"{option} {text}: the model has no vocabulary of characters; takes tokens like 0 or 5,3,12"
        ) from None


def _inputs(given: tuple[str, ...]) -> dict[str, Any]:
    from tinyrnn.data.files import read_array

    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise click.UsageError(f"--input {text}: takes NAME=FILE")
        found[name] = read_array(Path(file))
    return found


@click.command(short_help="Feed a model's output back as its next input: text or tokens.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--start", required=True, metavar="TEXT|N,…", help="What the model reads first: text, or tokens.")
@click.option("--steps", type=click.IntRange(1, 100_000_000), default=200, show_default=True, help="Tokens to make, at most.")
@click.option(
    "--method", type=click.Choice(["greedy", "sample", "beam"]), help="[default: that of the options given, else greedy]"
)
@click.option("--temperature", type=click.FloatRange(0), help="Of sample: above 1 wilder, below 1 tamer.  [default: 1]")
@click.option("--top-k", type=click.IntRange(1), help="Of sample: the likeliest K tokens only.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Of sample: the fewest tokens that hold this probability."
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 64) - 1), default=0, show_default=True, help="The same seed gives the same tokens."
)
@click.option("--stop", metavar="TEXT|N,…", help="Tokens, each of which ends it.")
@click.option("--width", type=click.IntRange(1, 10_000), help="Of beam: hypotheses at a time.  [default: 4]")
@click.option("--length-penalty", type=float, help="Of beam: above 0 favours longer ones.  [default: 0]")
@click.option("--n-best", type=click.IntRange(1), help="Of beam: hypotheses to print.  [default: 1]")
@click.option("--output", metavar="NAME", help="The output that has the scores, where there are several.")
@click.option("--feed", metavar="NAME", help="The input that takes the token, where there are several.")
@click.option(
    "--table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Embeddings [tokens, size] for a model that takes them: .npy.",
)
@click.option(
    "--scores", type=click.Choice(["logits", "probabilities"]), help="What the output is.  [default: told by its values]"
)
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="Another input, constant throughout: .npy. Repeatable."
)
@model_options
@json_option
def generate(
    model: Path,
    how: dict[str, Any],
    start: str,
    steps: int,
    method: str | None,
    seed: int,
    stop: str | None,
    output: str | None,
    feed: str | None,
    table: Path | None,
    scores: str | None,
    inputs: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Generate with MODEL: choose a token by its scores, feed it back, and again.

    A model whose metadata has a vocabulary, the characters in the order of their tokens, takes and writes text, as it
    comes; others take and write tokens, whole numbers.
    """
    from tinyrnn import decode, load
    from tinyrnn.data.files import read_array
    from tinyrnn.data.vocabulary import vocabulary_of

    chosen = {name: value for name, value in options.items() if value is not None}
    method = method or ("sample" if set(chosen) & set(SAMPLING) else "beam" if chosen else "greedy")
    useless = [f"--{n.replace('_', '-')}" for n in chosen if (n in SAMPLING) != (method == "sample") or method == "greedy"]
    if useless:
        raise click.UsageError(f"{', '.join(useless)}: has no meaning with --method {method}")
    loaded = load(model, **how)
    decoder = decode.Decoder(
        loaded,
        output=output,
        feed=feed,
        table=None if table is None else read_array(table),
        scores=scores,
        inputs=_inputs(inputs),
    )
    try:
        vocabulary: str | None = vocabulary_of(loaded)
    except LoadError:
        vocabulary = None
    if vocabulary is not None and len(vocabulary) != decoder.vocabulary:
        vocabulary = None
    prompt = _tokens("--start", start, vocabulary)
    stops = [] if stop is None else _tokens("--stop", stop, vocabulary)
    if method == "beam":
        hypotheses = decoder.beam(prompt, steps, stop=stops, **chosen)
        found = [
            {"tokens": h.tokens.tolist(), "score": h.score, "log_probability": h.log_probability, "stopped": h.stopped}
            for h in hypotheses
        ]
        if as_json:
            texts = [{} if vocabulary is None else {"text": _text(h.tokens, vocabulary)} for h in hypotheses]
            print_json({"model": loaded.name, "method": method, "hypotheses": [f | t for f, t in zip(found, texts, strict=True)]})
        else:
            for h in hypotheses:
                click.echo(f"{h.score:.4f}  {_text(h.tokens, vocabulary)}")
        return
    sampling = {"method": method, "seed": seed, **chosen}
    if as_json:
        begun = perf_counter()
        with progress_bar(f"generating with {loaded.name}") as progress:
            made = decoder.generate(prompt, steps, stop=stops, progress=progress, **sampling)
        seconds = perf_counter() - begun
        print_json(
            {
                "model": loaded.name,
                **sampling,
                "tokens": made.tokens.tolist(),
                **({} if vocabulary is None else {"text": _text(made.tokens, vocabulary)}),
                "log_probability": float(made.log_probabilities.sum(dtype="float64")),
                "stopped": made.stopped,
                "seconds": seconds,
                "microseconds_per_token": seconds * 1e6 / len(made.tokens),
            }
        )
        return
    _print(decoder, prompt, steps, stops, vocabulary, sampling)


def _text(tokens: Any, vocabulary: str | None) -> str:
    return " ".join(map(str, tokens)) if vocabulary is None else "".join(vocabulary[t] for t in tokens)


def _print(
    decoder: Decoder, prompt: list[int], steps: int, stops: list[int], vocabulary: str | None, how: dict[str, Any]
) -> None:
    """Tokens as they come."""
    between = "" if vocabulary is not None else " "
    if vocabulary is not None:
        click.echo(_text(prompt, vocabulary), nl=False)
    for number, token in enumerate(decoder.tokens(prompt, steps, stop=stops, **how)):
        click.echo((between if number else "") + _text([token], vocabulary), nl=False)
    click.echo()
