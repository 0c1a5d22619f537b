"""Sound: .wav files, framing, short-time spectra, and models on live sound. Needs NumPy and the runtime only.

import tinyrnn
from tinyrnn import audio

denoise = audio.SpectralMask(tinyrnn.load("dtln_model_1.onnx"), tinyrnn.load("dtln_model_2.onnx"))
clean = denoise.run(noisy)                      # a whole recording, sample for sample
while samples := microphone.read():             # or as it comes, in pieces of any size
    speaker.write(denoise.push(samples))
speaker.write(denoise.finish())

voice = audio.Listener(tinyrnn.load("vad.onnx"), hop=512)
probabilities = voice.run(samples)["output"]    # one row a frame
"""

from __future__ import annotations

from tinyrnn.audio.frames import WINDOWS, Framer, InverseStft, OverlapAdd, Stft, make_window
from tinyrnn.audio.front import TAKES, frames_of, gives_sound, takes_of
from tinyrnn.audio.pipelines import GIVES, Listener, SampleFilter, SpectralMask

__all__ = [
    "GIVES",
    "TAKES",
    "WINDOWS",
    "Framer",
    "InverseStft",
    "Listener",
    "OverlapAdd",
    "SampleFilter",
    "SpectralMask",
    "Stft",
    "frames_of",
    "gives_sound",
    "make_window",
    "takes_of",
]
