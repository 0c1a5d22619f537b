"""A character language model of Shakespeare's plays: trained, exported and verified in minutes on one core.

    python -m tinyrnn_export.char_lm --data FOLDER -o DIR [--cell lstm|rnn|both]

The model is one recurrent layer between an embedding and a linear layer. It is trained by truncated
backpropagation through time (Williams and Peng 1990): the text is cut into parallel streams, each stream is
read window by window, and the state is carried from window to window while gradients stop at its start.
"""

from __future__ import annotations

import gzip
import json
import math
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .pytorch import export_sequence, export_step, to_npz

FILE = "input.txt.gz"
LICENSE = "MIT. Trained on tinyshakespeare (github karpathy/char-rnn, MIT), a text in the public domain."
EPOCHS = 12
EMBEDDING = 24
STREAMS = 32
"""Places of the text that are read side by side."""
WINDOW = 64
"""Characters through which gradients go back."""
DROPOUT = {"lstm": 0.2, "rnn": 0.1}
CLIP = 1.0
"""The largest norm of the gradient of all parameters together."""
WARM_UP = 0.02
"""The share of the training in which the learning rate rises."""
LEARNING_RATE = {"lstm": 6e-3, "rnn": 5e-3}
WEIGHT_DECAY = 0.01
VERIFIED = 1000
"""Characters of the held-out text on which the exported files are compared with PyTorch."""


class CharLM(nn.Module):
    """Characters to the logits of the next one: Embedding -> LSTM or RNN (tanh) -> Linear.

    V characters in the vocabulary, H units: forward(x [N, T] int64, h [1, N, H], c [1, N, H]) ->
    (logits [N, T, V], hn, cn). The RNN has no c. Without states, zeros are taken.
    """

    def __init__(self, cell: str, vocabulary: int, embedding: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.rnn: nn.LSTM | nn.RNN
        if cell == "lstm":
            self.rnn = nn.LSTM(embedding, hidden, batch_first=True)
        else:
            self.rnn = nn.RNN(embedding, hidden, batch_first=True)
            nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))
        self.head = nn.Linear(hidden, vocabulary)
        self.drop = nn.Dropout(dropout)

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c") if isinstance(self.rnn, nn.LSTM) else ("h",)

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = (state if len(state) > 1 else state[0]) if state else None
        y, after = self.rnn(self.embed(x), before)
        return (self.head(self.drop(y)), *(after if isinstance(after, tuple) else (after,)))


class FromZero(nn.Module):
    """The same model without states in its interface: forward(x [1, T]) -> logits [1, T, V]."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)[0]
        return logits


@dataclass(frozen=True)
class Text:
    """Indices into `vocabulary`, int64 [characters]: the first 90 % to train on, the last 10 % held out."""

    vocabulary: str
    train: torch.Tensor
    heldout: torch.Tensor


@dataclass(frozen=True)
class Result:
    """One row of the comparison: losses in nats per character, time in seconds."""

    cell: str
    hidden: int
    parameters: int
    train_loss: float
    heldout_loss: float
    seconds: float
    onnx_bytes: int


def read_text(folder: Path) -> Text:
    """Read FOLDER/input.txt.gz; a ClickException says what is expected where it is missing or unreadable."""
    path = folder / FILE
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except FileNotFoundError:
        raise click.ClickException(
            f"{path} does not exist: --data expects the folder that holds {FILE}, the tinyshakespeare text "
            "(data/tinyshakespeare/input.txt of github karpathy/char-rnn), compressed by gzip"
        ) from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read as text compressed by gzip: {error}") from None
    vocabulary = "".join(sorted(set(text)))
    index = {character: i for i, character in enumerate(vocabulary)}
    codes = torch.tensor([index[character] for character in text])
    split = len(codes) * 9 // 10
    if split <= 2 * STREAMS * WINDOW or len(codes) - split <= VERIFIED:
        raise click.ClickException(f"{path} has only {len(codes):,} characters: too few to train on")
    return Text(vocabulary, codes[:split], codes[split:])


def windows(codes: torch.Tensor, offset: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs x, y [STREAMS, WINDOW], y one character ahead of x; a row continues that of the pair before."""
    length = (len(codes) - 1 - offset) // STREAMS
    x = codes[offset : offset + STREAMS * length].view(STREAMS, length)
    y = codes[offset + 1 : offset + 1 + STREAMS * length].view(STREAMS, length)
    starts = range(0, length - WINDOW + 1, WINDOW)
    return [(x[:, t : t + WINDOW], y[:, t : t + WINDOW]) for t in starts]


def heldout_loss(model: CharLM, codes: torch.Tensor, chunk: int = 4096) -> float:
    """Mean loss in nats per character over `codes` [characters], read as one stream from a zero state."""
    model.eval()
    total = 0.0
    state: list[torch.Tensor] = []
    with torch.no_grad():
        for t in range(0, len(codes) - 1, chunk):
            y = codes[t + 1 : t + 1 + chunk]
            logits, *state = model(codes[t : t + len(y)].unsqueeze(0), *state)
            total += F.cross_entropy(logits[0], y, reduction="sum").item()
    model.train()
    return total / (len(codes) - 1)


def learning_rate(progress: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a short linear rise, then half a cosine to zero."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def train(model: CharLM, text: Text, rate: float, epochs: int, seconds: float | None) -> tuple[float, float, float]:
    """Train in place; returns the last epoch's training loss, the held-out loss, and the seconds taken.

    The learning rate follows the share of `epochs` done, or of `seconds` where that is given; only the first
    way gives the same weights each time. Each epoch starts from a zero state and cuts the text elsewhere.
    Seconds spent on the held-out text are not counted.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    train_loss, held, spent, epoch = math.nan, math.nan, 0.0, 0
    while (spent < seconds) if seconds else (epoch < epochs):
        began = time.perf_counter()
        batches = windows(text.train, offset=int(torch.randint(0, STREAMS * WINDOW, ())))
        losses: list[float] = []
        state: list[torch.Tensor] = []
        for x, y in batches:
            elapsed = spent + time.perf_counter() - began
            progress = elapsed / seconds if seconds else (epoch + len(losses) / len(batches)) / epochs
            if progress >= 1:
                break
            optimizer.param_groups[0]["lr"] = rate * learning_rate(progress)
            logits, *state = model(x, *(part.detach() for part in state))
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
        epoch += 1
        spent += time.perf_counter() - began
        train_loss = sum(losses) / max(1, len(losses))
        held = heldout_loss(model, text.heldout)
        click.echo(f"  epoch {epoch:3d}   train {train_loss:.3f}   held out {held:.3f} nats/char   {spent:5.0f} s")
    return train_loss, held, spent


def export(model: CharLM, text: Text, heldout: float, folder: Path, name: str) -> None:
    """Write NAME.onnx (states explicit), NAME_sequence.onnx (zero states) and NAME.npz into `folder`."""
    vocabulary = json.dumps(text.vocabulary)
    metadata = {"vocabulary": vocabulary, "license": LICENSE, "heldout_nats_per_char": f"{heldout:.4f}"}
    x = text.heldout[:7].unsqueeze(0)
    states = {state: f"{state}n" for state in model.state_names}
    zeros = [torch.zeros(1, 1, model.rnn.hidden_size) for _ in states]
    time_axis = {"x": {1: "T"}, "logits": {1: "T"}}
    export_step(
        model,
        [x, *zeros],
        folder / f"{name}.onnx",
        input_names=["x", *states],
        output_names=["logits", *states.values()],
        states=states,
        dynamic_axes=time_axis,
        metadata=metadata,
    )
    export_sequence(
        FromZero(model),
        [x],
        folder / f"{name}_sequence.onnx",
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes=time_axis,
        metadata=metadata,
    )
    layers = [["Embedding", "embed"], [type(model.rnn).__name__, "rnn"], ["Linear", "head"]]
    to_npz(model, folder / f"{name}.npz", layers, metadata={**metadata, "vocabulary": text.vocabulary})


def verify(model: CharLM, codes: torch.Tensor, folder: Path, name: str) -> None:
    """Compare onnxruntime with PyTorch on `codes` [characters]: in one call, and character by character.

    Raises ClickException where a logit or a final state differs by more than 1e-5 + 1e-4 of its value.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    states = {state: f"{state}n" for state in model.state_names}
    model.eval()
    with torch.no_grad():
        wanted = [part.numpy() for part in model(codes.unsqueeze(0))]
    x = codes.unsqueeze(0).numpy()
    zeros = {state: np.zeros((1, 1, model.rnn.hidden_size), np.float32) for state in states}

    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options)
    whole = session.run(None, {"x": x, **zeros})
    logits, carried = [], zeros
    for t in range(x.shape[1]):
        frame, *after = session.run(None, {"x": x[:, t : t + 1], **carried})
        logits.append(frame)
        carried = dict(zip(states, after, strict=True))
    stepped = [np.concatenate(logits, axis=1), *carried.values()]
    sequence = onnxruntime.InferenceSession(folder / f"{name}_sequence.onnx", options).run(None, {"x": x})

    ways = {"one call": whole, "character by character": stepped, "no explicit states": sequence}
    for way, got in ways.items():
        pairs = list(zip(got, wanted[: len(got)], strict=True))
        worst = max(float(np.max(np.abs(a - b))) for a, b in pairs)
        click.echo(f"  onnxruntime, {len(codes):,} characters, {way}: within {worst:.1e} of PyTorch")
        if not all(np.all(np.abs(a - b) <= 1e-5 + 1e-4 * np.abs(b)) for a, b in pairs):
            raise click.ClickException(f"{name}, {way}: onnxruntime and PyTorch differ by up to {worst:.1e}")


def build(cell: str, text: Text, folder: Path, hidden: int, epochs: int, seconds: float | None, seed: int) -> Result:
    """Train one model from `seed`, write its files into `folder` and verify them."""
    torch.manual_seed(seed)
    model = CharLM(cell, len(text.vocabulary), EMBEDDING, hidden, DROPOUT[cell])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"{cell}, {hidden} units, {parameters:,} parameters")
    train_loss, held, spent = train(model, text, LEARNING_RATE[cell], epochs, seconds)
    name = f"char_lm_{cell}"
    model.eval()
    export(model, text, held, folder, name)
    verify(model, text.heldout[:VERIFIED], folder, name)
    size = (folder / f"{name}.onnx").stat().st_size
    return Result(cell, hidden, parameters, train_loss, held, spent, size)


def table(results: list[Result]) -> str:
    """The results beside each other, one line a cell."""
    lines = ["cell   units   parameters   train   held out   bits/char   seconds   .onnx bytes"]
    for r in results:
        lines.append(
            f"{r.cell:4} {r.hidden:7d} {r.parameters:12,d} {r.train_loss:7.3f} {r.heldout_loss:10.3f} "
            f"{r.heldout_loss / math.log(2):11.3f} {r.seconds:9.0f} {r.onnx_bytes:13,d}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help=f"Folder that holds {FILE}.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the files go.")
@click.option("--cell", type=click.Choice(["lstm", "rnn", "both"]), default="lstm", show_default=True)
@click.option("--hidden", type=click.IntRange(1), default=224, show_default=True, help="Recurrent units.")
@click.option("--epochs", type=click.IntRange(1), help=f"Passes over the training text.  [default: {EPOCHS}]")
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    help="Train each model for this time instead; the weights then depend on the machine's speed.",
)
@click.option("--seed", type=int, default=1, show_default=True)
def main(data: Path, output: Path, cell: str, hidden: int, epochs: int | None, seconds: float | None, seed: int) -> None:
    """Train a character language model on the tinyshakespeare text and export it to .onnx and .npz."""
    if epochs and seconds:
        raise click.UsageError("give --epochs or --seconds, not both")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    text = read_text(data)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"--output {output} cannot be made a folder: {error.strerror}") from None
    cells = ["lstm", "rnn"] if cell == "both" else [cell]
    results = [build(each, text, output, hidden, epochs or EPOCHS, seconds, seed) for each in cells]
    click.echo("losses in nats per character; held out: the last 10 % of the text, read as one stream")
    click.echo(table(results))


if __name__ == "__main__":
    main()
