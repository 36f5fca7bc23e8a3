"""Records whole or not at all, leases with one owner, shared work done once, and displays."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from study_project import Project

from medpeft_utils.core import shared
from medpeft_utils.core.errors import BadInput
from medpeft_utils.core.files import StorageFault, append_line, plain, read_json, storage, write_bytes, write_json
from medpeft_utils.core.packed import pack
from medpeft_utils.core.shared import once
from medpeft_utils.study import records, status, verify
from medpeft_utils.study.grid import Run, load_grid
from medpeft_utils.study.identity import run_hash
from medpeft_utils.study.progress import Counts, Progress, TimeLeft, Times, duration, earlier_times
from medpeft_utils.study.queue import AUTO, BESIDE_MB, MARGIN, Room, in_order
from medpeft_utils.study.worker import remove_left_sockets, socket_folder

SCORES = dict.fromkeys(records.SCORES, 0.5)
DEMO = Path(__file__).resolve().parents[1] / 'figures/demo/records.jsonl'


def whole(**changes) -> dict:
    """A record that is whole, with changes."""
    record = {
        'schema': 1,
        'run': 'a' * 16,
        'status': 'done',
        'profile': 'tiny',
        'experiment': 'toy',
        'parameters': {'seed': 1, 'fraction': 0.1, 'dataset': 'ham10000'},
        'code_version': 'none.none',
        'data': {'name': 'ham10000', 'label': 'HAM10000', 'synthetic': False, 'counts': {'train': 75}},
        'backbone': {'name': 'vit_base_mini', 'label': 'ViT-Base (mini)', 'role': 'ViT-Base', 'family': 'vit'},
        'method': {'key': 'lora', 'label': 'LoRA', 'trainable_parameters': 10, 'head_parameters': 2},
        'learning_rate': {'value': 0.001, 'how': 'given', 'trials': []},
        'metrics': {'test': SCORES},
        'time': {'total_seconds': 3.0, 'step_seconds': 0.1},
        'environment': {},
    }
    return {**record, **changes}


def test_a_record_is_written_whole_or_refused(tmp_path):
    path = records.write(whole(metrics={'test': {**SCORES, 'auroc': float('nan')}}), tmp_path / 'run')
    assert json.loads(path.read_text())['metrics']['test']['auroc'] is None
    assert records.read(tmp_path / 'run')['run'] == 'a' * 16 and os.listdir(tmp_path / 'run') == ['record.json']
    for changes, fault in (
        ({'status': 'fine'}, "status: .*(it is 'fine')"),
        ({'metrics': {'test': {'auroc': 0.5}}}, 'metrics.test.f1_macro: field required'),
        ({'metrics': {'test': {**SCORES, 'f1_macro': 5.0}}}, 'less than or equal to 1'),
        ({'metrics': {'test': {**SCORES, 'accuracy': '0.5'}}}, "valid number .it is '0.5'"),
        ({'method': None}, 'method: input should be a valid dictionary'),
        ({'metrics': {}}, 'has no metric'),
        ({'status': 'failed'}, 'error: field required'),
    ):
        with pytest.raises(BadInput, match=fault):
            records.write(whole(**changes), tmp_path / 'other')
    assert not (tmp_path / 'other').exists()
    assert not records.faults(whole(metrics={'fid': 20.8}))
    path.write_text(path.read_text()[:100])
    assert records.read(tmp_path / 'run') is None


def test_a_reader_sees_the_old_record_or_the_new_never_a_part(tmp_path):
    path, faults = tmp_path / 'x.json', []
    write_json(path, {'n': 0, 'text': 'x' * 100_000}, durable=False)

    def read() -> None:
        while not done.is_set():
            content = json.loads(path.read_text())
            faults.extend([] if len(content['text']) == 100_000 else ['part'])

    done = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    for n in range(100):
        write_json(path, {'n': n, 'text': 'x' * 100_000}, durable=False)
    done.set()
    reader.join()
    assert not faults and os.listdir(tmp_path) == ['x.json']


def test_storage_faults_name_the_file_and_the_way_out(tmp_path):
    with pytest.raises(StorageFault, match='no space left on device; free space'), storage(tmp_path):
        raise OSError(28, 'No space left on device')
    if Path('/dev/full').exists():
        with pytest.raises(StorageFault, match='/dev/full'):
            append_line('/dev/full', {})
    with pytest.raises(FileNotFoundError), storage(tmp_path):
        raise FileNotFoundError(2, 'another matter')


@pytest.mark.skipif(os.geteuid() == 0, reason='root writes everywhere')
def test_a_read_only_folder_is_a_storage_fault(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageFault, match='permission denied'):
        write_bytes(tmp_path / 'x', b'')


def test_plain_knows_numbers_of_numpy_and_paths():
    given = {'a': np.float32(0.5), 'b': np.arange(2), 'c': Path('/x'), 'd': float('inf'), 1: (True, None)}
    assert plain(given) == {'a': 0.5, 'b': [0, 1], 'c': '/x', 'd': None, '1': [True, None]}
    with pytest.raises(TypeError, match='object'):
        plain(object())


def test_records_become_a_table_and_one_file(tmp_path):
    records.write(whole(), tmp_path / 'runs' / 'a')
    records.write(whole(run='b' * 16, status='failed', error={'type': 'X', 'message': ''}), tmp_path / 'runs' / 'b')
    records.write(whole(run='c' * 16, experiment='vit', code_version='older.none'), tmp_path / 'runs' / 'c')
    (tmp_path / 'runs' / 'half').mkdir()
    (tmp_path / 'runs' / 'half' / 'record.json').write_text('{"schema": 1')
    table = records.load(tmp_path)
    assert list(table.columns) == [*records.COLUMNS, 'stale'] and len(table) == 1
    row = table.iloc[0]
    assert (row['dataset_label'], row['train_images'], row['encoder_role'], row['f1_macro']) == (
        *('HAM10000', 75, 'ViT-Base'),
        0.5,
    )
    assert list(records.load(tmp_path, stale=True)['stale']) == [False, True]
    assert len(records.load(tmp_path, status=None)) == 2
    path = records.collect(tmp_path)
    assert len(records.load(path, status=None)) == 2
    assert list(records.load(tmp_path / 'runs').columns) == [*records.COLUMNS, 'stale']
    with pytest.raises(BadInput, match='neither a study'):
        list(records.read_all(tmp_path / 'nowhere'))


def itself(seed: int = 1, **changes) -> dict:
    """A whole record whose identity is that of its parameters."""
    record = whole(parameters={'seed': seed}, **changes)
    return {'schema': 1, **record, 'run': run_hash(record['experiment'], record['parameters'], record['code_version'])}


def test_kept_records_of_planned_runs_are_taken_as_done_and_no_others(tmp_path, caplog):
    kept = tmp_path / 'records.jsonl'
    found = [itself(seed) for seed in range(5)]
    a, b, _, d, e = (record['run'] for record in found)
    found[3] |= {'status': 'failed', 'error': {'type': 'X', 'message': ''}}
    found[4] |= {'parameters': {'seed': 7}}
    kept.write_text(''.join(json.dumps(record) + '\n' for record in found))
    records.write(found[1] | {'seed': 'here'}, tmp_path / 'runs' / b)
    assert records.adopt(kept, [a, b, d, e], tmp_path) == 1
    assert {path.name for path in (tmp_path / 'runs').iterdir()} == {a, b}
    assert records.read(tmp_path / 'runs' / b)['seed'] == 'here' and f'record {e} was changed' in caplog.text
    with pytest.raises(BadInput, match='no such file of records'):
        records.adopt(tmp_path / 'nothing.jsonl', [], tmp_path)


def _places(content, place=()):
    yield place
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(inside)[:12]:
        yield from _places(value, (*place, key))


def _replaced(content, place, value):
    if not place:
        return value
    changed = content.copy()
    changed[place[0]] = _replaced(content[place[0]], place[1:], value)
    return changed


ODD = [
    None,
    True,
    -1,
    5.0,
    2**70,
    -(10**30),
    float('nan'),
    float('inf'),
    '',
    'x',
    '0.9',
    'a/b',
    [],
    [[]],
    ['a'],
    {},
    {'a': 1},
]


@pytest.mark.parametrize('number', range(0, 98, 14))
def test_a_real_record_with_any_value_in_any_place_is_left_out_or_can_be_shown(number, tmp_path, caplog):
    """Whatever stands where: what is taken as whole can be listed, shown, checked, and serve as an estimate."""
    record = json.loads(DEMO.read_text().splitlines()[number])
    places = [place for place in _places(record) if place]
    left_out = 0
    for turn, place in enumerate(places):
        value = ODD[turn % len(ODD)]
        (tmp_path / 'record.json').write_text(json.dumps(_replaced(record, place, value)))
        found = records.read(tmp_path)
        if found is None:
            left_out += 1
            continue
        assert value == value and value != float('inf'), place
        records.row(found), verify.tampered(found), status.describe(tmp_path), earlier_times([found])
        assert str(verify.Verdict(found, True, '')) and verify.sample([found, found], 1)
    assert left_out > len(places) / 3
    for garbage in ('', '[]', '7', 'null', '"x"', '{', '[' * 10_000, '{"a":' * 10_000, '9' * 5000, '{"a": "\\ud800"}'):
        (tmp_path / 'kept.jsonl').write_text(garbage + '\n')
        with pytest.raises(BadInput, match='holds no record') if garbage else nullcontext():
            list(records.read_all(tmp_path / 'kept.jsonl'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'labels': 'x'}, 'spoilt'),
        ({'arg_max': ''}, 'spoilt'),
        ({'n': 10**6}, 'spoilt'),
        ({'classes': 1}, 'spoilt'),
        ({'scores': pack(np.zeros(10**7, np.uint8))}, 'spoilt'),
        ({'multi_label': True}, 'spoilt'),
    ],
)
def test_spoilt_predictions_are_told_and_never_unpacked_beyond_their_size(change, said):
    record = json.loads(DEMO.read_text().splitlines()[0])
    record['rows']['test'] |= change
    assert records.faults(record) == [] and said in verify.tampered(record)


def test_a_kept_record_carries_its_search(tmp_path):
    """Another seed, or another machine, does not search again."""
    kept, key = tmp_path / 'records.jsonl', 'ab' * 8
    search = {'key': key, 'edge': {'head_learning_rate': 'high'}, 'seconds': 3.5, 'device': 'a GPU'}
    trials = [{'learning_rate': 0.1, 'head_learning_rate': 0.2, 'score': 0.5, 'pruned': False}]
    rate = {'value': 0.1, 'head_value': 0.2, 'how': 'searched', 'trials': trials, 'edge': 'head high', 'search': search}
    kept.write_text(json.dumps({'schema': 1} | itself(learning_rate=rate)) + '\n')
    assert records.adopt(kept, [], tmp_path) == 0
    found = json.loads((tmp_path / 'searches' / f'{key}.json').read_text())
    assert found == {
        'values': {'learning_rate': 0.1, 'head_learning_rate': 0.2},
        'trials': trials,
        'edge': search['edge'],
        'seconds': 3.5,
        'device': 'a GPU',
    }
    one_rate = rate | {'trials': [{'learning_rate': 0.1, 'score': 0.5}], 'search': search | {'key': 'cd' * 8}}
    kept.write_text(json.dumps({'schema': 1} | itself(learning_rate=one_rate)) + '\n')
    records.adopt(kept, [], tmp_path)
    found = json.loads((tmp_path / 'searches' / f'{"cd" * 8}.json').read_text())
    assert found['values'] == {'learning_rate': 0.1}  # a tied head has none of its own
    outside = rate | {'search': search | {'key': '../../outside'}}
    kept.write_text(json.dumps({'schema': 1} | itself(learning_rate=outside)) + '\n')
    with pytest.raises(BadInput, match=r'learning_rate\.search\.key'):
        records.adopt(kept, [], tmp_path)
    assert len(list(tmp_path.rglob('*.json'))) == 2


def test_a_notebook_run_by_hand_records_into_results_by_hand(tmp_path, monkeypatch):
    project = Project(tmp_path)
    monkeypatch.chdir(project.notebook.parent)
    context = records.start({'seed': 3, 'record_folder': ''}, experiment='toy')
    parts = {key: whole()[key] for key in ('data', 'backbone', 'method', 'learning_rate', 'metrics')}
    path = context.finish(**parts, environment={'precision': 'fp32'})
    assert path == tmp_path / 'results' / 'by_hand' / 'runs' / context.run / 'record.json'
    record = records.read(path)
    assert record['parameters'] == {'seed': 3} and record['environment']['precision'] == 'fp32'
    assert record['time']['total_seconds'] >= 0 and record['environment']['versions']['numpy'] == np.__version__
    again = records.start({'seed': 3, 'record_folder': ''}, experiment='toy')
    assert again.run == context.run and again.searches == tmp_path / 'results' / 'by_hand' / 'searches'


def test_a_run_refuses_the_folder_of_another(tmp_path):
    write_json(tmp_path / 'run.json', {'parameters': {'seed': 1}})
    with pytest.raises(BadInput, match='folder of another run: seed 2 instead of 1'):
        records.start({'seed': 2, 'record_folder': str(tmp_path)}, experiment='toy')


def test_one_of_many_gets_a_lease(tmp_path):
    both = [shared.Lease(tmp_path / 'leases' / 'run') for _ in range(2)]
    assert both[0].take() and not both[1].take(), 'one at a time, of the same process too'
    assert both[0].is_held() and not both[1].is_held() and shared.is_taken(both[0].path)
    both[0].release()
    assert not shared.is_taken(both[0].path) and both[1].take() and both[1].token != both[0].token
    both[1].release()
    assert os.listdir(tmp_path / 'leases') == []


HOLD = 'import sys; from medpeft_utils.core.shared import Lease; lease = Lease(sys.argv[1], float(sys.argv[2]));'
HOLD += 'print(lease.take(), flush=True); sys.stdin.readline(); print(lease.is_held(), flush=True)'


def test_the_lease_of_a_process_that_is_gone_is_taken_over(tmp_path):
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    with subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / 'run'), '180'], **pipes) as process:
        assert process.stdout.readline() == 'True\n'
        mine = shared.Lease(tmp_path / 'run')
        assert not mine.take() and shared.is_taken(mine.path)
        process.kill()
        process.wait()
        assert not shared.is_taken(mine.path) and mine.take()


@pytest.mark.skipif(os.name != 'posix', reason='needs SIGSTOP')
def test_an_owner_that_stands_still_loses_its_lease_and_notices(tmp_path):
    """As an owner on another machine, of whose process nothing is known here: its file alone counts."""
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    with subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / 'run'), '1.5'], **pipes) as process:
        assert process.stdout.readline() == 'True\n'
        mine, began = shared.Lease(tmp_path / 'run', patience=1.5), time.monotonic()
        while time.monotonic() - began < 3:
            assert not mine.take(), 'it beats'
            time.sleep(0.2)
        process.send_signal(signal.SIGSTOP)
        while not mine.take():
            assert time.monotonic() - began < 20
            time.sleep(0.1)
        process.send_signal(signal.SIGCONT)
        process.stdin.write('\n')
        process.stdin.flush()
        assert process.stdout.readline() == 'False\n', 'the late one must see that it has lost'
    assert mine.is_held()


def test_of_many_that_take_over_one_wins(tmp_path):
    killed = HOLD.replace('sys.stdin.readline()', '__import__("os").kill(__import__("os").getpid(), 9)')
    subprocess.run([sys.executable, '-c', killed, str(tmp_path / 'run'), '180'])
    assert (tmp_path / 'run').is_file()
    won, start = [], threading.Barrier(8)

    def take() -> None:
        mine = shared.Lease(tmp_path / 'run')
        start.wait()
        won.append((mine.take(), mine))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken for taken, _ in won) == 1


def test_shared_work_is_done_once_across_processes(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from medpeft_utils.core.packed import pack
from medpeft_utils.core.shared import once
folder = Path(sys.argv[1])
def compute():
    (folder / f'by_{os.getpid()}').touch()
    time.sleep(0.5)
    return {'value': 0.25}
print(once(folder / 'search.json', compute)['value'])
"""
    each = [
        subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in each] == ['0.25'] * 3
    assert len(list(tmp_path.glob('by_*'))) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith('by_')) == ['search.json']


def test_shared_work_that_fails_is_tried_by_the_next(tmp_path):
    def fails() -> dict:
        raise ValueError('no rate converges')

    with pytest.raises(ValueError, match='no rate'):
        once(tmp_path / 'search.json', fails)
    assert once(tmp_path / 'search.json', lambda: {'value': 1}) == {'value': 1}
    assert once(tmp_path / 'search.json', fails) == {'value': 1}
    assert read_json(tmp_path / 'nothing.json') is None


def test_sockets_of_killed_runs_are_removed_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    mine = socket_folder()
    gone = mine.name.replace(str(os.getpid()), '999999999')
    for name in (gone, 'medpeft-0-999999999-b', 'medpeft-notes', 'other'):
        (tmp_path / name).mkdir()
    remove_left_sockets()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.name, 'medpeft-0-999999999-b', 'medpeft-notes', 'other'}, 'those of other containers stay'


def test_time_left_is_that_of_the_most_similar_runs(tmp_path):
    project = Project(tmp_path)
    first, second, third = load_grid(project.grid(axes={'mode': ['fine'], 'seed': [0, 1, 2]})).runs
    times = Times()
    assert str(times.left([first], [], jobs=1)) == '1 run of a kind not timed yet'
    times.add(first, 10.0)
    times.add(first, 20.0)
    assert times.left([second, third], [], jobs=1) == TimeLeft(30.0)
    assert times.left([second], [(third, 5.0)], jobs=2) == TimeLeft(15.0), 'the longest, not the mean'
    assert [duration(seconds) for seconds in (4, 600, 15_000, 200_000)] == ['4 s', '10 min', '4 h 10 min', '2 d 8 h']


def test_time_left_says_what_it_does_not_know():
    """Linear probing takes seconds, and says nothing of methods that train the whole network."""
    times, searching = Times(), {'search_trials': 8}
    for seed in range(3):
        times.add(a_run('linear_probing', seed), 5.0)
    left = [a_run(method, seed) for method in ('linear_probing', 'lora', 'full_ft') for seed in (3, 4)]
    assert str(times.left(left, [], jobs=1)) == '10 s to go, and 4 runs of a kind not timed yet'
    times.add(a_run('lora', 2, **searching), 700.0, search_seconds=600.0)
    times.add(a_run('full_ft', 2), 150.0)
    assert str(times.left(left, [], jobs=1)) == '8 min to go'
    first = a_run('full_ft', 0, **searching)
    assert times.expected(first) == 150 + 150 * 600 / 100, 'a search takes as many runs as that of another method'
    assert times.expected(a_run('lora', 1, **searching)) == 100, 'the search of its group is done'
    # A record whose search another run made tells nothing wrong of runs.
    fresh = Times()
    fresh.add(a_run('lora', 1, **searching), 100.0, search_seconds=600.0)
    assert fresh.expected(a_run('lora', 2, **searching)) == 100


def invented_study(seed: int) -> tuple[list, dict, dict]:
    """Runs of two backbones, four methods and three seeds that share a search; what each takes here and took before."""
    rng = np.random.default_rng(seed)
    runs, here, before = [], {}, {}
    for backbone, size in (('small', 1.0), ('large', 4.0)):
        for method, cost in (('full_ft', 3.0), ('lora', 2.0), ('ssf', 1.5), ('linear_probing', 0.3)):
            for number in range(3):
                parameters = {'backbone': backbone, 'method': method, 'seed': number, 'search_trials': 8}
                run = Run(f'{backbone}{method}{number}', 'vit', 'vit', parameters, parameters, '', None)
                runs.append(run)
                here[run.hash] = 10 * size * cost * rng.uniform(0.9, 1.1)
                before[run.hash] = 25 * size * cost * rng.uniform(0.9, 1.1)
    return in_order(runs), here, before


@pytest.mark.parametrize('seed', range(3))
def test_time_left_is_right_within_a_quarter_from_early_on(tmp_path, seed):
    runs, here, before = invented_study(seed)
    kept = tmp_path / 'records.jsonl'
    lines = [
        {'experiment': 'vit', 'parameters': run.parameters, 'time': {'total_seconds': before[run.hash]}} for run in runs
    ]
    kept.write_text('\n'.join(map(json.dumps, lines)))
    times, searched, spent = Times(earlier_times(records.contents(kept))), set(), []
    for run in runs:  # the first of each search takes three times as long
        search = 2 * here[run.hash]
        spent.append(here[run.hash] + (search if run.group not in searched else 0.0))
        searched.add(run.group)
    for number, run in enumerate(runs[:-1]):
        times.add(run, spent[number], 2 * here[run.hash])
        if number >= 1:
            assert abs(times.left(runs[number + 1 :], [], jobs=1).seconds / sum(spent[number + 1 :]) - 1) < 0.6
        if number >= len({run.group for run in runs}):
            assert abs(times.left(runs[number + 1 :], [], jobs=1).seconds / sum(spent[number + 1 :]) - 1) < 0.25


def a_run(method: str, seed: int = 0, dataset: str = 'ham10000', **more) -> Run:
    parameters = {'dataset': dataset, 'backbone': 'vit', 'method': method, 'seed': seed, **more}
    return Run(f'{method}{seed}{dataset}', 'vit', 'vit', parameters, parameters, '', None)


def needs(run: Run, mb: float, device: str = 'NVIDIA H100') -> dict:
    return {
        'experiment': run.experiment,
        'parameters': run.parameters,
        'peak_memory_mb': mb,
        'environment': {'device': device},
    }


def started(room: Room, runs: list[Run]) -> list[int]:
    """Where runs would start, one after the other, until one has to wait."""
    active: list[tuple[Run, int]] = []
    for run in runs:
        if (place := room.place_for(run, active)) is None:
            break
        active.append((run, place))
    return [place for _, place in active]


def test_as_many_runs_start_as_fit_on_a_card_by_the_peaks_of_runs_alike():
    room, lora = Room(AUTO, ['0'], [80_000.0], most=16), [a_run('lora', seed) for seed in range(20)]
    assert started(room, lora) == [0], 'the first runs alone: nothing is known of it'
    room.note(needs(lora[0], 9_300.0, 'x86_64 CPU, 2 threads'))
    assert started(room, lora) == [0], 'what a run takes on a CPU says nothing of a card'
    room.note(needs(lora[0], 9_300.0))
    room.note(needs(lora[1], 9_200.0))  # the largest counts
    assert len(started(room, lora)) == int(80_000 / (9_300 * MARGIN + BESIDE_MB)) == 7
    assert len(started(room, [a_run('lora', seed, 'breastus') for seed in range(20)])) == 7, 'on other data, the same'
    assert started(room, [lora[0], a_run('full_ft')]) == [0], 'one of which nothing is known waits for the card'
    assert started(room, [a_run('full_ft'), lora[0]]) == [0]
    room.note(needs(a_run('full_ft'), 60_000.0))
    assert started(room, [a_run('full_ft'), lora[0], lora[1]]) == [0, 0]
    room.note(needs(lora[0], 100.0, 'NVIDIA H100') | {'peak_memory_mb': None})
    room.note({'experiment': 'vit'})
    assert room.needed(lora[0]) == 9_300 * MARGIN + BESIDE_MB


def test_runs_are_shared_out_among_cards_and_never_more_than_cores():
    room, runs = Room(AUTO, ['3', '5'], [24_000.0, 10_000.0], most=16), [a_run('lora', seed) for seed in range(20)]
    assert started(room, runs) == [0, 1], 'the first on each card runs alone'
    room.note(needs(runs[0], 5_000.0))
    assert started(room, runs) == [0, 1, 0, 0], 'three on the large card, one on the small one'
    assert len(started(Room(AUTO, ['0'], [None], most=16), runs)) == 1, 'a card that tells nothing'
    machine = Room(AUTO, [], [16_000.0], most=4)
    machine.note(needs(runs[0], 1_000.0, 'x86_64 CPU, 1 threads'))
    assert started(machine, runs) == [0] * 4
    assert started(Room(3, ['0', '1'], [None, None]), runs) == [0, 1, 0], 'a number that is given holds'


def demo_as_recorded() -> list[tuple[Run, float]]:
    """The runs of figures/demo in their order, each with its seconds."""
    read = sorted(map(json.loads, DEMO.read_text().splitlines()), key=lambda record: record['started'])
    about = [(record['run'], record['experiment'], record['parameters']) for record in read]
    runs = [Run(run, experiment, experiment, given, given, '', None) for run, experiment, given in about]
    return [(run, record['time']['total_seconds']) for run, record in zip(runs, read, strict=True)]


@pytest.mark.parametrize(('speed', 'seed'), [(1.0, 0), (0.5, 1), (2.0, 2)])
def test_time_left_of_the_demo_is_right_within_a_quarter_from_the_first_minute_on(speed, seed):
    """Two workers on a machine of another speed, where runs take a fifth more or less than their share.

    The last tenth is left out: it hangs on a few runs alone.
    """
    rng = np.random.default_rng(seed)
    waiting = [(run, spent * speed * rng.lognormal(0, 0.2)) for run, spent in demo_as_recorded()]
    times, busy, clock, shown = Times(earlier_times(records.contents(DEMO))), [], 0.0, []
    while waiting or busy:
        while waiting and len(busy) < 2:
            run, spent = waiting.pop(0)
            busy.append((clock + spent, run, spent))
        ended = min(busy, key=lambda one: one[0])
        busy.remove(ended)
        clock, run, spent = ended
        times.add(run, spent)
        running = [(other, clock - (end - whole)) for end, other, whole in busy]
        shown.append((clock, times.left([run for run, _ in waiting], running, jobs=2).seconds))
    compared = [(left, clock - at) for at, left in shown if at > 60 and clock - at > 0.1 * clock]
    assert len(compared) > 30
    assert [pair for pair in compared if abs(pair[0] / pair[1] - 1) > 0.25] == []


def test_progress_is_a_line_a_run_where_there_is_no_terminal(capsys):
    progress = Progress('tiny')
    progress.show(Counts(done=1), TimeLeft(3.0))
    progress.ended('done  toy', Counts(done=1, left=3), TimeLeft(60.0), notable=False)
    assert capsys.readouterr().out == '[1/4] done  toy · 60 s to go\n'


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    progress = Progress('tiny', terminal)
    progress.show(Counts(1, 2, 0, 4, 5), TimeLeft(600.0))
    progress.ended('failed  toy', Counts(1, 2, 0, 4, 5), TimeLeft(0, 9), notable=True)
    progress.close()
    assert 'tiny: 3/12' in terminal.getvalue() and '2 failed · 4 running · 10 min to go' in terminal.getvalue()
    assert 'failed  toy\n' in terminal.getvalue()


def test_a_command_that_finds_a_fault_ends_with_its_exit_code(tmp_path):
    """click returns the code that a command gives to `ctx.exit`; in a process of its own it must arrive."""
    (tmp_path / 'labels.csv').write_text('image,label\nnowhere.png,a\nneither.png,b\n')
    command = [sys.executable, '-m', 'medpeft_utils.cli', 'data', 'check', str(tmp_path / 'labels.csv')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (1, 2) and 'Traceback' not in done.stderr, done.stdout + done.stderr
    code = "import click; from medpeft_utils import cli; cli.medpeft.add_command(click.Command('x', callback=lambda: "
    code += "click.get_current_context().exit(7))); cli.COMMANDS['x'] = ('', ''); cli.Commands.get_command = "
    code += 'click.Group.get_command; cli.main(["x"])'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 7


def test_the_command_line_starts_without_torch():
    code = 'import sys; from medpeft_utils import cli; cli.main(["--help"])'
    check = (
        "import atexit, sys; atexit.register(lambda: print('HEAVY', {'torch', 'timm', 'pandas'} & set(sys.modules)));"
    )
    done = subprocess.run([sys.executable, '-c', check + code], capture_output=True, text=True)
    assert 'HEAVY set()' in done.stdout and 'status' in done.stdout and done.returncode == 0
    done = subprocess.run([sys.executable, '-m', 'medpeft_utils.cli', 'stauts'], capture_output=True, text=True)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    done = subprocess.run([sys.executable, '-m', 'medpeft_utils.cli', 'show', 'ffff'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('error: no run begins with')


@pytest.mark.parametrize('kind', ['empty file', 'empty folder', 'blank lines'])
def test_nothing_is_not_verified(tmp_path, kind):
    source = tmp_path / 'kept'
    source.mkdir() if kind == 'empty folder' else source.write_text('\n\n' if kind == 'blank lines' else '')
    result = CliRunner().invoke(verify.verify, [str(source)])
    assert isinstance(result.exception, BadInput) and 'holds no finished record' in str(result.exception)
