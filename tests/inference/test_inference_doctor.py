"""`sdseg doctor --inference` says what is wrong and what mattes will cost, and its exit status says the same."""

import importlib.metadata

import pytest
from PIL import Image

from sdseg import cli
from sdseg.inference import doctor
from tests.conftest import picture


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)


def unreachable(*arguments, **settings):
    raise OSError("Name or service not known")


def lines(capsys, *flags) -> tuple[int, list[str]]:
    code = cli.main(["doctor", "--inference", *map(str, flags)])
    return code, capsys.readouterr().out.splitlines()


def test_a_folder_that_can_be_matted(miniature_adapter, tmp_path, capsys):
    for number in range(3):
        Image.fromarray(picture(40, 60, number)).save(tmp_path / f"{number}.png")
    code, found = lines(capsys, "--adapter", miniature_adapter, "--input", tmp_path, "--device", "cpu")
    assert code == 0 and not any(line.startswith("error") for line in found)
    assert any("photo of 60x40 at 4 steps x 1 samples" in line for line in found)
    assert found[-1].startswith("ok: folder: 3 photos, about")


def test_the_model_runs_without_a_folder_and_past_a_photo_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    from sdseg.inference.session import MattingSession

    ran = []
    whole = MattingSession.sample
    monkeypatch.setattr(MattingSession, "sample", lambda *given: ran.append(1) or whole(*given))
    code, found = lines(capsys, "--device", "cpu", "--no-refine")
    assert code == 0 and ran and "photo of 768x1024" in found[-1]
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert lines(capsys, "--device", "cpu", "--input", tmp_path)[0] == 2
    Image.fromarray(picture(40, 60)).save(tmp_path / "b.png")
    code, found = lines(capsys, "--device", "cpu", "--input", tmp_path)
    assert code == 0 and "photo of 60x40" in found[-2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapter", "nowhere"], "error: adapter 'nowhere' is no folder"),
        (["--pretrained_model_name_or_path", "stabilityai/stable-diffusion-2"], "pass the mirror sd2-community/"),
        (["--pretrained_model_name_or_path", "somebody/base"], "base: somebody/base is not here and cannot be reached"),
        (["--eta", "3"], "error: eta is 3.0"),
        (["--output_uncertainty"], "error: --output_uncertainty with --ensemble_size 1"),
        (["--tile", "64", "--processing_resolution", "0"], "error: tile with processing_resolution 0"),
        (["--pretrained_model_name_or_path", "."], "error: base folder . has no unet"),
    ],
)
def test_what_stands_against_it(flags, message, capsys):
    code, found = lines(capsys, "--device", "cpu", *flags)
    assert code == 2 and message in found[-1] and found[-1].startswith("error: ")


def test_an_adapter_of_another_base(miniature_adapter, capsys):
    code, found = lines(capsys, "--adapter", miniature_adapter, "--pretrained_model_name_or_path", "embedded")
    assert code == 2 and "trained on" in found[-1]


def test_versions_that_clash(monkeypatch, capsys):
    real = importlib.metadata.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name == "diffusers" else real(name))
    code, found = lines(capsys, "--device", "cpu")
    assert code == 2 and any("error: diffusers is 0.1" in line and "pip install 'diffusers" in line for line in found)
