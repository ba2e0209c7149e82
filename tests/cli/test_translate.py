import os
import stat
import subprocess
import sys
import threading

import pytest
import torch

from lightning_bpd.cli import translate as module
from lightning_bpd.cli.entry import main
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.interfaces import InputError
from lightning_bpd.models import Architecture, EncoderDecoder
from lightning_bpd.saved.translation import Translator, load

TRAIN = [sys.executable, "-c", "from lightning_bpd.cli import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A finished model that translates to something, whatever it is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = train_tokenizer([f"{a} sees {b}" for a in "abcdefgh" for b in "abcdefgh"], 280)
    shape = Architecture(d_model=8, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=8)
    network = EncoderDecoder(
        shape, tokenizer.vocab_size, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id
    )
    folder = tmp_path_factory.mktemp("translate") / "model"
    Translator(network, TextCodec(tokenizer, tokenizer)).save(folder, {})
    return str(folder)


def translate(model, text, *args):
    options = ("translate", "--model", model, "--extra_length", "0", *args)
    return subprocess.run(
        [*TRAIN, *options],
        input=text,
        capture_output=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_every_line_comes_back_through_pipes(model):
    text = "a sees b\n\n   \n\U0001f600 c\u2028d\r\n" + "x" * 400 + "\nno line feed at the end"
    done = translate(model, text.encode())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().split("\n")
    assert len(lines) == 7
    assert lines[1] == lines[2] == lines[6] == ""
    assert done.stderr == b""


def test_chunks_and_batches_change_nothing(model, tmp_path, monkeypatch):
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{'abcdefgh'[i % 8]} sees {'ab ' * (i % 5)}\n" for i in range(50)))
    outputs = []
    for chunk, batch in ((10_000, 64), (7, 3), (1, 1)):
        monkeypatch.setattr(module, "CHUNK", chunk)
        output = tmp_path / f"{chunk}.txt"
        paths = ["--input", str(source), "--output", str(output)]
        main(["translate", "--model", model, "--extra_length", "5", "--batch_size", str(batch), *paths])
        outputs.append(output.read_text())
    assert outputs[0].count("\n") == 50
    assert outputs[0] == outputs[1] == outputs[2]


def test_sampled_text_depends_on_the_seed_and_the_line_alone(model, tmp_path, monkeypatch):
    source = tmp_path / "in.txt"
    source.write_text("a sees b\n" * 20)
    sampling = ["--sample", "true", "--temperature", "1.5", "--top_k", "50", "--top_p", "0.95"]

    def sampled(*options, chunk=1000):
        monkeypatch.setattr(module, "CHUNK", chunk)
        main(
            [
                "translate",
                "--model",
                model,
                "--input",
                str(source),
                "--output",
                str(tmp_path / "out"),
                *options,
            ]
        )
        return (tmp_path / "out").read_text()

    text = sampled(*sampling, "--seed", "1")
    assert text == sampled(*sampling, "--seed", "1", "--batch_size", "3", chunk=7)
    assert text == sampled(*sampling, "--seed", "1", "--decoder", "jacobi", "--block_size", "5")
    assert text != sampled(*sampling, "--seed", "2")
    assert len(set(text.splitlines())) > 5
    assert len(set(sampled().splitlines())) == 1
    assert sampled("--decoder", "jacobi") == sampled()
    with pytest.raises(SystemExit):
        sampled("--temperature", "0.5")
    with pytest.raises(SystemExit):
        sampled(*sampling, "--decoder", "beam")


def test_mistakes_are_one_line_and_leave_no_output(model, tmp_path, capsys):
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    output = str(tmp_path / "out.txt")
    for args, message in (
        (["--input", str(tmp_path / "bad.txt")], "bad.txt, line 2: invalid UTF-8"),
        (["--input", str(tmp_path / "absent.txt")], "absent.txt: there is no such file"),
        (["--device", "nonsense"], "--device nonsense cannot be used here"),
        (["--decoder", "nonsense"], "decoder"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--nonsense"], "nonsense"),
    ):
        given = args if "--input" in args else [*args, "--input", model + "/config.json"]
        with pytest.raises(SystemExit) as stopped:
            main(["translate", "--model", model, "--output", output, *given])
        assert stopped.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ")
        assert message in errors
        assert errors.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(model, tmp_path):
    (tmp_path / "in.txt").write_text("a sees b\n")
    (tmp_path / "real").mkdir()
    (tmp_path / "out.txt").symlink_to(tmp_path / "real" / "out.txt")
    for old in (None, "old"):
        if old is not None:
            (tmp_path / "real" / "out.txt").write_text(old)
        paths = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")]
        main(["translate", "--model", model, "--extra_length", "0", *paths])
        assert (tmp_path / "out.txt").is_symlink()
        assert (tmp_path / "real" / "out.txt").read_text().count("\n") == 1
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["out.txt"]


def test_a_named_pipe_is_written_as_it_is(model, tmp_path):
    (tmp_path / "in.txt").write_text("a sees b\n" * 3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    paths = ["--input", str(tmp_path / "in.txt"), "--output", str(pipe)]
    main(["translate", "--model", model, "--extra_length", "0", *paths])
    reader.join(timeout=30)
    assert received[0].count(b"\n") == 3
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("path", ["file", "file/model"])
def test_a_finished_model_is_not_written_over_a_file(model, tmp_path, path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=f"{path} cannot be written as a folder: "):
        load(model).save(tmp_path / path, {})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_reader_that_leaves_is_no_error(model, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("a\n" * 20_000)
    command = [*TRAIN, "translate", "--model", model, "--extra_length", "0", "--input", str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_translate_starts_without_lightning(model):
    code = (
        "import sys; from lightning_bpd.cli import main\n"
        f"main(['translate', '--model', {model!r}, '--input', '/dev/null'])\n"
        "loaded = {'pytorch_lightning', 'wandb', 'sacrebleu', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_help_lists_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "translate", "export"):
        assert f"\n  {command} " in shown
