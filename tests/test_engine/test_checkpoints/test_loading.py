import http.server
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmgcnl.engine import CheckpointError, install_safe_loading
from mmgcnl.engine.checkpoints import find_checkpoints, loading


class Call:
    """What pickle makes of it is the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def load(path: Path | str):
    install_safe_loading()
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def test_install_safe_loading_is_explicit_and_idempotent():
    """In a new process, since every other test here may have installed it."""
    code = """
from mmengine.runner import CheckpointLoader
import mmgcnl.engine, mmgcnl.apis, mmgcnl.deployment, mmgcnl.analysis
before = dict(CheckpointLoader._schemes)
assert not any(hasattr(loader, '__wrapped__') for loader in before.values())
mmgcnl.engine.install_safe_loading()
installed = dict(CheckpointLoader._schemes)
assert {k: v.__wrapped__ for k, v in installed.items()} == before
mmgcnl.engine.install_safe_loading()
assert CheckpointLoader._schemes == installed
"""
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, '-c', code], env=env, check=True)


def test_what_mmengine_saves_is_loaded(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    saved = dict(
        state_dict=OrderedDict(weight=torch.arange(3.0)),
        history=history,
        score=np.float32(0.5),
        palette=np.arange(6, dtype=np.uint8).reshape(2, 3),
    )
    torch.save(saved, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')
    assert torch.equal(loaded['state_dict']['weight'], torch.arange(3.0))
    assert loaded['history'].statistics('mean') == history.mean()
    assert loaded['score'] == saved['score']
    assert (loaded['palette'] == saved['palette']).all()


def test_checkpoint_of_numpy_1_is_loaded(tmp_path):
    """It calls numpy._core by the name numpy.core."""
    saved = dict(score=np.float64(0.5), array=np.arange(3))
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'a.pth').read_bytes()
    content = content.replace(b'numpy._core.multi', b'numpy.core.multi')
    (tmp_path / 'a.pth').write_bytes(content)
    loaded = load(tmp_path / 'a.pth')
    assert loaded['score'] == 0.5 and (loaded['array'] == np.arange(3)).all()


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('scheme', ['', 'file://'])
def test_code_is_refused_and_does_not_run(tmp_path, monkeypatch, zipped, scheme):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    left = tmp_path / 'left_behind'
    attack = Call(os.system, f'touch {left}')
    path = tmp_path / 'evil.pth'
    saved = dict(state_dict=dict(weight=torch.zeros(1)), meta=attack)
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    if scheme:  # as from a URL
        load_url = CheckpointLoader._schemes['https://']
        with pytest.raises(CheckpointError, match='refused'):
            load_url(f'file://{path}')
    with pytest.raises(CheckpointError, match=r'refused: it asks for \w+\.system,'):
        load(path)
    assert not left.exists()
    torch.load(path, weights_only=False)
    assert left.exists()  # or the test would show nothing
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'


@pytest.mark.parametrize(
    'attack',
    [
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, HistoryBuffer, 'register_statistics'),
        Call(eval, '1'),
    ],
)
def test_malicious_call_is_refused(tmp_path, attack):
    torch.save(attack, tmp_path / 'evil.pth')
    with pytest.raises(CheckpointError, match='refused: it asks for '):
        load(tmp_path / 'evil.pth')


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.99])
def test_truncated_file_is_named(tmp_path, keep):
    torch.save(dict(weight=torch.zeros(1000)), tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(content))
    (tmp_path / 'a.pth').write_bytes(content[:size])
    with pytest.raises(
        CheckpointError, match=r'a\.pth is not a checkpoint, or is truncated'
    ):
        load(tmp_path / 'a.pth')


def test_missing_file_raises_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / 'none.pth')


def test_find_checkpoints(tmp_path, monkeypatch):
    names = ['iter_9.pth', 'iter_10.pth', 'iter_8.pth']
    for age, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    for other in ('iter_11.pth.part', 'best_mIoU_iter_10.pth', 'weights.pth'):
        (tmp_path / other).touch()
    found = [str(tmp_path / name) for name in names]
    assert find_checkpoints(str(tmp_path)) == found
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text(found[1])
    assert find_checkpoints(str(tmp_path)) == [found[1], found[0], found[2]]
    for nothing in ('', found[1][:-6], str(tmp_path / 'iter_12.pth')):
        pointer.write_text(nothing)  # killed within its writing, or removed
        assert find_checkpoints(str(tmp_path)) == found
    pointer.write_text(found[1])
    shutil.copytree(tmp_path, tmp_path / 'moved')
    for name in names:
        (tmp_path / name).unlink()
    assert {Path(p).name for p in find_checkpoints(str(tmp_path / 'moved'))} == set(names)
    monkeypatch.chdir(tmp_path / 'moved')  # whose checkpoints are of another training
    assert find_checkpoints(str(tmp_path / 'none')) == []


def test_resumes_from_out_dir_without_the_pointer(build, tmp_path):
    """The file last_checkpoint may be empty after a crash."""
    hook = dict(type='CheckpointHook', by_epoch=False, out_dir=str(tmp_path / 'elsewhere'))
    hooks = dict(checkpoint=dict(hook, interval=5))
    with pytest.raises(InterruptedError):
        stop = [dict(type='Stop', at=12)]
        build(tmp_path / 'work', default_hooks=hooks, custom_hooks=stop).train()
    (tmp_path / 'work/last_checkpoint').write_text('')
    runner = build(tmp_path / 'work', default_hooks=hooks, resume=True)
    runner.load_or_resume()
    assert runner.iter == 10


def test_weights_alone_are_not_resumed(build, tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    path = str(tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='no training to resume; to start'):
        build(tmp_path, resume=True, load_from=path).train()
    build(tmp_path, load_from=path).train()


def test_config_in_a_checkpoint_does_not_run(build, tmp_path):
    """mmengine's resume would run it, as Python."""
    build(tmp_path).train()
    path, left = tmp_path / 'iter_14.pth', tmp_path / 'left_behind'
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['config'] = f'import os\nos.mkdir({str(left)!r})'
    torch.save(checkpoint, path)
    build(tmp_path, resume=True, load_from=str(path)).train()
    assert not left.exists()


# --- tricks with pickles and archives ---------------------------------------------------


def pack(path: Path, pickled: bytes, **entries: bytes) -> None:
    """Write an archive as torch.save does, with a pickle of our own."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', pickled)
        archive.writestr('a/byteorder', b'little')
        archive.writestr('a/version', b'3\n')
        for name, content in entries.items():
            archive.writestr(f'a/data/{name}', content)


class PersistentIds(pickle.Pickler):
    """Gives an object of its own kind by a persistent id, which a loader looks up."""

    def persistent_id(self, obj):
        return ('module', os.system, 'touch left_behind') if obj == 'here' else None


def persistent_ids(path: Path) -> None:
    buffer = io.BytesIO()
    PersistentIds(buffer, protocol=2).dump(dict(state_dict='here'))
    pack(path, buffer.getvalue())


def nested_archive(path: Path) -> None:
    inner = path.with_name('inner.pth')
    torch.save(Call(os.system, 'touch left_behind'), inner)
    pack(path, inner.read_bytes())


def legacy_tar(path: Path) -> None:
    with tarfile.open(path, 'w') as archive:
        attack = pickle.dumps(Call(os.system, 'touch left_behind'), 2)
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            entry = tarfile.TarInfo(name)
            entry.size = len(attack)
            archive.addfile(entry, io.BytesIO(attack))


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), path)


def zip_bomb(path: Path) -> None:
    pack(path, pickle.dumps({}, 2), bomb=bytes(10**7))


def huge_array(path: Path) -> None:
    torch.save(Call(bytearray, 10**15), path)


def forged_dtype(path: Path) -> None:
    """Claims that a number has 80000 bytes, so that it is read from beyond its array."""
    torch.save(ForgedDtype(np.dtype('f8'), 80000, 0), path)


def forged_flags(path: Path) -> None:
    """Claims that a number is an object, so that its bytes are taken for a pointer."""
    torch.save(ForgedDtype(np.dtype('f8'), 8, 0x3F), path)


def array_of_objects(path: Path) -> None:
    torch.save(np.array([Call(os.system, 'touch left_behind')]), path)


def deep_recursion(path: Path) -> None:
    pack(path, b'\x80\x02' + b'(' * 10**6 + b't' * 10**6 + b'.')


class ForgedDtype:
    """Pickled, it is an array whose dtype has a size or flags of our choice."""

    def __init__(self, dtype: np.dtype, size: int, flags: int) -> None:
        self.dtype, self.size, self.flags = dtype, size, flags

    def __reduce__(self):
        dtype = Built(np.dtype, ('f8', False, True), self.state())
        reconstruct = np.zeros(1).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b'b'), (1, (2,), dtype, False, b'1' * 16)

    def state(self):
        fields = {'a': (self.dtype, 0)}
        return (3, '|', None, ('a',), fields, self.size, 1, self.flags)


class Built:
    """Pickled, it is the result of a call with a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    'write',
    [
        persistent_ids,
        nested_archive,
        legacy_tar,
        torchscript,
        zip_bomb,
        huge_array,
        forged_dtype,
        forged_flags,
        array_of_objects,
        deep_recursion,
    ],
    ids=lambda write: write.__name__,
)
def test_malicious_checkpoint_is_refused(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='a.pth (refused|is not a checkpoint)'):
        load(tmp_path / 'a.pth')
    assert not (tmp_path / 'left_behind').exists()


def test_arrays_are_saved_again_as_arrays(tmp_path):
    """A resumed training saves the logs of the one before."""
    saved = dict(
        a=np.arange(6.0).reshape(2, 3).T, b=np.array(['x', 'yz']), c=np.bool_(True)
    )
    for _ in range(2):
        torch.save(saved, tmp_path / 'a.pth')
        saved = load(tmp_path / 'a.pth')
    torch.load(tmp_path / 'a.pth', weights_only=False)
    assert saved['a'].tolist() == [[0, 3], [1, 4], [2, 5]] and saved['c']
    assert saved['b'].tolist() == ['x', 'yz']


def test_file_without_checksums_is_loaded(tmp_path):
    """Those of others may have none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(weight=torch.ones(3)), tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load(tmp_path / 'a.pth')['weight'], torch.ones(3))


class Redirect(http.server.BaseHTTPRequestHandler):
    """Redirects every request to ``server.target``; serves what is left of the path."""

    def do_GET(self):
        if self.path.startswith('/moved'):
            self.send_response(302)
            self.send_header('Location', self.server.target)
            self.end_headers()
            return
        content = Path(self.server.folder, self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Redirect) as server:
        server.folder = tmp_path
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_redirected_urls_are_loaded_safely(tmp_path, monkeypatch, server):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'good.pth')
    torch.save(Call(os.system, 'touch left_behind'), tmp_path / 'evil.pth')
    url = f'http://127.0.0.1:{server.server_port}'
    server.target = f'{url}/good.pth'
    assert torch.equal(load(f'{url}/moved1.pth')['weight'], torch.ones(1))
    server.target = f'{url}/evil.pth'
    with pytest.raises(CheckpointError, match='refused: it asks for'):
        load(f'{url}/moved2.pth')
    server.target = f'file://{tmp_path}/good.pth'
    with pytest.raises(OSError, match='Redirection to url'):
        load(f'{url}/moved3.pth')
    with pytest.raises(CheckpointError, match='give a path, or a URL that begins with'):
        load(f'file://{tmp_path}/good.pth')
    assert not (tmp_path / 'left_behind').exists()


def test_threads_load_one_after_another(tmp_path):
    """How torch.load is made safe is a setting of the whole process."""
    first_loads, second_loads = threading.Event(), threading.Event()
    found = []

    def load_slowly(name):
        if not first_loads.is_set():
            first_loads.set()
            found.append(second_loads.wait(0.3))
        else:
            second_loads.set()
        found.append(os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'])

    load = loading._safe(load_slowly)
    threads = [threading.Thread(target=load, args=['a.pth']) for _ in range(2)]
    threads[0].start()
    assert first_loads.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert found == [False, '1', '1']
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
