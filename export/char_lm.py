"""Many to many: a character language model, trained by truncated backpropagation through time.

    python -m tinyrnn_export.char_lm --data FOLDER -o DIR

One recurrent layer between an embedding and a linear layer: an LSTM, and a vanilla RNN beside it. The text is cut
into parallel streams, each is read window by window, and the state is carried from window to window while gradients
stop at a window's start (Williams and Peng 1990). A table compares windows with the whole sequence.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tinyrnn import load

from .pytorch import export_sequence, export_step, to_npz
from .recipe import Array, Recipe, Run, command, session

RECIPE = Recipe(
    name="char_lm",
    folder="tinyshakespeare",
    file="input.txt.gz",
    source="tinyshakespeare, 1,115,394 characters of Shakespeare's plays (github karpathy/char-rnn)",
    made="the reference of the Python language, as Python's pydoc has it",
    license="MIT. Trained on tinyshakespeare (github karpathy/char-rnn, MIT), a text in the public domain.",
    epochs=16,
)
HIDDEN = 96
EMBEDDING = 16
STREAMS = 32
"""places of the text that are read side by side"""
WINDOW = 64
"""characters through which gradients go back"""
RATE = {"lstm": 6e-3, "rnn": 3e-3}
CHECKED = 5000
"""characters of the held-out text on which the files are checked in every way of running"""
PIECE = 4096
"""characters of one call on a long text"""

WINDOWS = (8, 32, 128, 1024)
"""of the comparison; the last one is the whole of each stream"""
ROUNDS = 8
"""of the comparison: how often each stream is read"""


class CharLM(nn.Module):
    """Characters to the logits of the next one: Embedding -> LSTM or RNN (tanh) -> Linear.

    V characters in the vocabulary, H units: forward(x [N, T] int64, h [1, N, H], c [1, N, H]) ->
    (logits [N, T, V], hn, cn). The RNN has no c. Without states, zeros are taken.
    """

    def __init__(self, cell: str, vocabulary: int, embedding: int = EMBEDDING, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.rnn: nn.LSTM | nn.RNN
        if cell == "lstm":
            self.rnn = nn.LSTM(embedding, hidden, batch_first=True)
        else:
            self.rnn = nn.RNN(embedding, hidden, batch_first=True)
            nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))
        self.head = nn.Linear(hidden, vocabulary)

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c") if isinstance(self.rnn, nn.LSTM) else ("h",)

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before = (state if len(state) > 1 else state[0]) if state else None
        y, after = self.rnn(self.embed(x), before)
        return (self.head(y), *(after if isinstance(after, tuple) else (after,)))


class FromZero(nn.Module):
    """The same model without states in its interface: forward(x [1, T]) -> logits [1, T, V]."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)[0]
        return logits


def read(run: Run) -> tuple[str, torch.Tensor, torch.Tensor]:
    """The vocabulary; the first 90 % of the text to train on, and the rest, held out: indices, int64 [characters].

    Raises ClickException for a text that is too short.
    """
    if run.data is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        text = gzip.decompress((run.data / RECIPE.file).read_bytes()).decode("utf-8")
    vocabulary = "".join(sorted(set(text)))
    index = {character: i for i, character in enumerate(vocabulary)}
    codes = torch.tensor([index[character] for character in text])
    split = len(codes) * 9 // 10
    if split <= STREAMS * WINDOWS[-1]:
        raise click.ClickException(
            f"the text has only {len(codes):,} characters; {STREAMS * WINDOWS[-1] * 10 // 9:,} or more are needed"
        )
    return vocabulary, run.first(codes[:split]), codes[split:]


def windows(codes: torch.Tensor, offset: int, window: int) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
    """Pairs x, y [STREAMS, window], y one character ahead of x, and whether it is the first; a row goes on from pair to pair."""
    length = (len(codes) - 1 - offset) // STREAMS
    x = codes[offset : offset + STREAMS * length].view(STREAMS, length)
    y = codes[offset + 1 : offset + 1 + STREAMS * length].view(STREAMS, length)
    starts = range(0, length - window + 1, window)
    return [(x[:, t : t + window], y[:, t : t + window], t == 0) for t in starts]


class Truncated:
    """The loss of a window; the state goes on to the next window, gradients do not."""

    def __init__(self, model: CharLM) -> None:
        self.model = model
        self.state: Sequence[torch.Tensor] = ()

    def __call__(self, batch: tuple[torch.Tensor, torch.Tensor, bool]) -> torch.Tensor:
        x, y, first = batch
        logits, *self.state = self.model(x, *(() if first else (part.detach() for part in self.state)))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def predicted(model: CharLM, codes: torch.Tensor) -> tuple[float, Array]:
    """Of a text read as one stream: the mean loss in nats per character, and the likeliest next character at each place."""
    total, likeliest, state = 0.0, [], ()
    with torch.no_grad():
        for t in range(0, len(codes) - 1, PIECE):
            y = codes[t + 1 : t + 1 + PIECE]
            logits, *state = model(codes[t : t + len(y)].unsqueeze(0), *state)
            total += F.cross_entropy(logits[0], y, reduction="sum").item()
            likeliest.append(logits[0].argmax(1).numpy())
    return total / (len(codes) - 1), np.concatenate(likeliest)


def saved_bytes(model: CharLM, batch: tuple[torch.Tensor, torch.Tensor, bool]) -> int:
    """What the forward pass of one window keeps for the backward pass, weights not counted."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Truncated(model)(batch)
    return sum(kept.values())


def gradient(model: CharLM, codes: torch.Tensor, window: int) -> torch.Tensor:
    """Of the mean loss over the streams' first WINDOWS[-1] characters, with gradients that stop at each window's start."""
    model.zero_grad()
    loss = Truncated(model)
    parts = windows(codes[: STREAMS * WINDOWS[-1] + 1], 0, window)
    for part in parts:
        torch.autograd.backward(loss(part) / len(parts))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compare_windows(run: Run, trained: CharLM, codes: torch.Tensor, heldout: torch.Tensor) -> None:
    """Truncated and full backpropagation through time on the same characters: a table.

    Each row trains a new LSTM on the first WINDOWS[-1] characters of each stream, ROUNDS times; the last column is the
    cosine between the gradients of a window and of the whole sequence, of the model that was trained before.
    """
    codes = codes[: STREAMS * WINDOWS[-1] + 1]
    full = gradient(trained, codes, WINDOWS[-1])
    run.say(f"  truncated and full ({WINDOWS[-1]}) backpropagation through time, {ROUNDS * (len(codes) - 1):,} characters each")
    run.say("  window   updates   held out   seconds   kept for the way back   gradient · full gradient")
    rows: list[dict[str, Any]] = []
    for window in WINDOWS:
        torch.manual_seed(run.seed)
        model = CharLM("lstm", trained.embed.num_embeddings)
        optimizer, loss = torch.optim.AdamW(model.parameters(), lr=RATE["lstm"]), Truncated(model)
        parts = windows(codes, 0, window)
        began = time.process_time()
        for _ in range(ROUNDS):
            for part in parts:
                optimizer.zero_grad()
                torch.autograd.backward(loss(part))
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        seconds = time.process_time() - began
        row = {
            "window": window,
            "updates": ROUNDS * len(parts),
            "heldout_nats_per_char": predicted(model, heldout[: 5 * PIECE])[0],
            "seconds": seconds,
            "kept_bytes": saved_bytes(model, parts[0]),
            "gradient_cosine": float(F.cosine_similarity(gradient(trained, codes, window), full, dim=0)),
        }
        rows.append(row)
        run.say(
            f"  {window:6d} {row['updates']:9,d} {row['heldout_nats_per_char']:10.3f} {seconds:9.1f} "
            f"{row['kept_bytes'] / 1e6:20.1f} MB {row['gradient_cosine']:20.4f}"
        )
    run.figures["windows"] = rows
    trained.zero_grad(set_to_none=True)


def export(run: Run, model: CharLM, name: str, vocabulary: str, example: torch.Tensor, loss: float) -> None:
    """Write NAME.onnx (states explicit), NAME_sequence.onnx (zero states) and NAME.npz."""
    metadata = run.metadata(vocabulary=vocabulary) | {"heldout_nats_per_char": f"{loss:.4f}"}
    x = example[:7].unsqueeze(0)
    states = {state: f"{state}n" for state in model.state_names}
    zeros = [torch.zeros(1, 1, model.rnn.hidden_size) for _ in states]
    time_axis = {"x": {1: "T"}, "logits": {1: "T"}}
    export_step(
        model,
        [x, *zeros],
        run.path(f"{name}.onnx"),
        input_names=["x", *states],
        output_names=["logits", *states.values()],
        states=states,
        dynamic_axes=time_axis,
        metadata=metadata,
        half=True,
    )
    export_sequence(
        FromZero(model),
        [x],
        run.path(f"{name}_sequence.onnx"),
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes=time_axis,
        metadata=metadata,
        half=True,
    )
    layers = [["Embedding", "embed"], [type(model.rnn).__name__, "rnn"], ["Linear", "head"]]
    to_npz(model, run.path(f"{name}.npz"), layers, metadata={**metadata, "vocabulary": vocabulary})


def compare(run: Run, model: CharLM, name: str, heldout: torch.Tensor) -> None:
    """Every file against onnxruntime, and the likeliest next character at every place of the held-out text."""
    codes = heldout.numpy()
    step, sequence = run.path(f"{name}.onnx"), run.path(f"{name}_sequence.onnx")
    for file in (step, sequence, run.path(f"{name}.npz")):
        run.check(file, {"x": codes[:CHECKED]})
    x = codes[None, :-1]
    states = {state: np.zeros((1, 1, HIDDEN), np.float32) for state in model.state_names}
    run.agree(
        "characters" if name == RECIPE.name else "characters of the RNN",
        PyTorch=predicted(model, heldout)[1],
        onnxruntime=session(step).run(None, {"x": x, **states})[0][0].argmax(1),
        tinyrnn=load(step).stream().run(codes[:-1]).argmax(1),
        onnxruntime_sequence=session(sequence).run(None, {"x": x})[0][0].argmax(1),
        tinyrnn_sequence=load(sequence).stream().run(codes[:-1]).argmax(1),
    )


def train(run: Run) -> None:
    """Both models: trained, exported, compared; then the windows."""
    vocabulary, codes, heldout = read(run)
    models = {}
    for cell in ("lstm", "rnn"):
        name = RECIPE.name if cell == "lstm" else f"{RECIPE.name}_{cell}"
        torch.manual_seed(run.seed)
        models[cell] = model = CharLM(cell, len(vocabulary))
        run.say(f"{'LSTM' if cell == 'lstm' else 'vanilla RNN'}, {HIDDEN} units")
        run.fit(
            model,
            lambda random: windows(codes, int(random.integers(STREAMS * WINDOW)), WINDOW),
            Truncated(model),
            rate=RATE[cell],
            heldout=lambda model=model: f"{predicted(model, heldout)[0]:.3f} nats/char",  # type: ignore[misc]
        )
        run.half(model, lambda model=model: predicted(model, heldout)[1])  # type: ignore[misc]
        loss = predicted(model, heldout)[0]
        run.figure(f"{cell}_nats_per_char", loss, f"{loss:.3f} nats ({loss / np.log(2):.3f} bits) per held-out character")
        export(run, model, name, vocabulary, heldout, loss)
        compare(run, model, name, heldout)
    compare_windows(run, models["lstm"], codes, heldout)


main = command(RECIPE, train, "Train a character language model, LSTM and vanilla RNN, and export it.")

if __name__ == "__main__":
    main()
