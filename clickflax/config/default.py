"""Every knob, once: `default()` is the whole list, a config file changes some of them."""

import ast
import contextlib
import difflib
import pathlib
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

T = TypeVar("T")


def default() -> ml_collections.ConfigDict:
    """The configuration with every knob at its default: a small BERT4Rec on simulated data."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of parameters, masks, dropout and the order of the data
    c.tasks = ("masked_item",)  # next_item, basket, purchase, returns, label; or several
    c.task_weights = (1.0,)  # weights of the tasks' losses: one for each, or one for all
    c.task_where = ("",)  # only targets that match, such as action=buy|cart or session=-1; "": all

    c.data = ml_collections.ConfigDict()
    c.data.path = ""  # folder or URL of a data set; empty: a simulated shop in the work folder
    c.data.variables = ("item",)  # inputs: item, action, price, gap, hour, item.FEATURE, ...
    c.data.given = ()  # variables that can condition the target: next item, given action=buy
    c.data.quantiles = ()  # numeric variables to bin: price=20 reads prices as ids of 20 quantiles
    c.data.weight = ""  # numeric variable with sample weights of the targets, for the loss only
    c.data.half_life = ""  # weights halve with age: 30d, or a number of sequences without times
    c.data.chain = ""  # a pause (30m) or a variable (invoice) that starts a session, after a SEP
    c.data.cls = False  # begin every window with CLS
    c.data.split = "leave_one_out"  # time, ratio, parts (or each of these _each), sequence_time
    c.data.validation_users = -1  # users with a validation item: -1 all, 0 none, or that many
    c.data.validation_from = ""  # split time: start of the validation, 2015-09-01T12:00:00 or 4/6
    c.data.test_from = ""  # split time: start of the test, a time (UTC) or a share of the events
    c.data.test_until = ""  # split time: end of the test; empty: the end of the log
    c.data.validation_share = 0.1  # split ratio: share of a sequence's events, before the test
    c.data.test_share = 0.1  # split ratio: share of a sequence's last events
    c.data.window = "last"  # last, sliding (with data.stride), or random (a new crop each epoch)
    c.data.stride = 50  # events between the starts of sliding windows
    c.data.packing = True  # several sequences share a row; False: one a row
    c.data.position_from = "end"  # the end or the start of a window has position 0

    c.mask = ml_collections.ConfigDict()
    c.mask.ratio = 0.2  # share of the events of a sequence that are masked, at least one
    c.mask.replace = "mask"  # masked events become MASK; 80/10/10: MASK, a random item, unchanged
    c.mask.last = 0.0  # share of the sequences in which only the last event is masked
    c.mask.unknown = 0.0  # UNK dropout: share of items replaced by UNK in training; 1: always

    c.loss = ml_collections.ConfigDict()  # of the tasks that rank the values of a variable
    c.loss.name = "softmax"  # bce (SASRec), gbce (gSASRec) or bpr
    c.loss.negatives = 0  # negatives sampled for each target; 0: a loss over the whole catalog
    c.loss.drawn = "uniform"  # or popularity, or in_batch: among the targets of the step
    c.loss.shared = False  # draw the same negatives for all targets of a step
    c.loss.avoid = "target"  # negatives that do not count: nothing, the target, or the history
    c.loss.log_q = False  # softmax: correct scores of negatives by log of their probability
    c.loss.calibration = 0.75  # gbce: t, from 0 (as bce) to 1
    c.loss.smoothing = 0.0  # label smoothing of the softmax over the catalog

    c.label = ml_collections.ConfigDict()
    c.label.buy = "buy"  # purchase, returns: the action of a purchase
    c.label.back = "return"  # returns: the action of a purchase that came back
    c.label.after = 0  # purchase: predict at every event; after so many; -1: at the last one before
    c.label.path = ""  # label: CSV or Parquet file with sequence, label; optional event, weight
    c.label.kind = "binary"  # label: binary, number or classes (0, 1, ...)
    c.label.classes = 2  # label: number of classes
    c.label.at = "event"  # predict at the event that has the label; cls: at CLS, once a sequence
    c.label.causal = True  # read only the events so far; False: the whole range that may be read
    c.label.share = 1.0  # share of the labelled sequences to train on, drawn by the seed
    c.label.positive = 1.0  # weight of the positive class

    c.model = ml_collections.ConfigDict()
    c.model.width = 64
    c.model.widths = ()  # widths of variables that differ from model.width: action=8, item=32
    c.model.combine = "sum"  # of the variables' embeddings; concat: concatenate, then project
    c.model.block = "transformer"  # hstu or gru
    c.model.layers = 2
    c.model.shared_layers = False  # all layers share their parameters (ALBERT)
    c.model.heads = 2
    c.model.max_len = 200  # longest sequence, in events
    c.model.feed_forward = 256  # width of the hidden layer of a block
    c.model.norm = "post"  # LayerNorm after the residual sum (BERT); pre: before; query: SASRec's
    c.model.activation = "gelu"  # gelu, relu or silu
    c.model.glu = False  # gated feed-forward (GLU): a third layer multiplies the activation
    c.model.gate = False  # multiply branches by a sigmoid of their residual input (LiGR)
    c.model.positions = "learned"  # sinusoidal, none, rotary, relative or disentangled (DeBERTa)
    c.model.relative_time = False  # attention uses time differences of the variable time
    c.model.output = "dense"  # layer before the scores: dense (BERT4Rec) or none (SASRec)
    c.model.output_bias = True  # a bias for each item
    c.model.tied = True  # score with the embedding table of the inputs
    c.model.cosine = False  # scores are cosines of states and items
    c.model.temperature = 1.0  # divides products of states and items, before biases are added
    c.model.repeat = False  # extra scores for items of the history, by count and distance
    c.model.scale_embeddings = False  # multiply item embeddings by sqrt(width)
    c.model.embedding_norm = True  # LayerNorm over the sum of the embeddings
    c.model.initializer = "normal"  # normal, truncated_normal (with init_stddev) or xavier
    c.model.init_stddev = 0.02
    c.model.dropout = 0.1  # on embeddings and on the output of every branch
    c.model.attention_dropout = 0.1  # on attention weights
    c.model.attention = "auto"  # xla, cudnn or pallas_tpu; auto: a kernel for this machine, or xla
    c.model.dtype = "float32"  # of computation, or bfloat16; parameters and sums stay float32
    c.model.remat = "none"  # recompute in the backward pass to save memory: none, attention, block

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"  # or lamb
    c.optim.learning_rate = 1e-3  # peak
    c.optim.schedule = "constant"  # constant, linear or cosine: after the warm-up, down to 0
    c.optim.warmup_steps = 100
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01  # never on norms and biases
    c.optim.clip_norm = 1.0  # global gradient norm; 0 turns clipping off
    c.optim.layer_decay = 1.0  # factor of the rate for each layer below the heads

    c.train = ml_collections.ConfigDict()
    c.train.steps = 2000
    c.train.batch_size = 128  # sequences a step; with packing, on average
    c.train.micro_rows = 0  # rows of a micro-batch, whose gradients are summed; 0: automatic
    c.train.softmax_chunk = 0  # items scored at once; 0: automatic
    c.train.steps_at_once = 0  # steps per call on resident data; 1: host pipeline; 0: automatic
    c.train.parallel = "jit"  # or pmap: the same step and numbers
    c.train.cpu_devices = 0  # devices to split the CPU into; 0: one per core
    c.train.model_devices = 1  # devices that share each table by rows; the others split the batch
    c.train.log_every = 50  # steps
    c.train.eval_every = 200  # steps
    c.train.monitor = "ndcg@10"  # validation metric that chooses the best checkpoint
    c.train.wandb = ""  # Weights & Biases project to log to; empty: none
    c.train.patience = 0  # evaluations without a new best before early stopping; 0: off

    c.eval = ml_collections.ConfigDict()
    c.eval.cutoffs = (1, 5, 10, 20)
    c.eval.filter_seen = True  # leave out items of the history, but never the target
    c.eval.negatives = 0  # candidates drawn for each target; 0: rank all items
    c.eval.drawn = "uniform"  # candidates: uniform or popularity; always the same for a data set
    c.eval.unseen = True  # draw candidates that are not in the history; False: of all, then filter
    c.eval.given = ()  # condition on the target's event, such as action=buy
    c.eval.batch_size = 256  # users at once

    c.init = ml_collections.ConfigDict()
    c.init.run = ""  # start from the best parameters of this run
    c.init.skip = ()  # patterns of parameters that start fresh, such as head_*
    c.init.vocab = "same"  # or remap: rows follow their tokens; new tokens get the mean row
    c.init.freeze = ()  # patterns of parameters that are not trained, such as embedder/*
    c.init.thaw = 0  # step from which frozen parameters are trained, too; 0: never
    return c


def load(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config that the file's `get_config()` gives, with overrides `config.train.steps=100`;
    of `FILE.py:WORD`, what `get_config(WORD)` gives.

    Raises FileNotFoundError without the file, and ValueError for a knob that does not exist (the
    nearest one is named), for a value of another type, and for an error inside the file.
    """
    config = call_in(path, "get_config", ml_collections.ConfigDict)
    values = knobs(config.copy_and_resolve_references())
    return override(_with(values, f"{path}: "), overrides)


def call_in(path: str | pathlib.Path, function: str, kind: type[T]) -> T:
    """What a function of a Python file returns, which must be of this kind; the file may be named
    with a word for the function, `FILE.py:WORD`.

    Raises FileNotFoundError without the file, and ValueError for an error inside it.
    """
    name, colon, word = str(path).partition(".py:")
    path = pathlib.Path(f"{name}.py" if colon else path)
    if not path.is_file():
        beside = sorted(str(other) for other in path.parent.glob("*.py"))
        raise FileNotFoundError(
            f"{path} is not a file; its folder has {', '.join(beside) or 'no .py file'}."
        )
    try:
        with _importable(path.resolve().parent):
            names = runpy.run_path(str(path))
            if function not in names:
                raise ValueError(f"there is no function {function}() in this file.")
            result = names[function](*([word] if colon else []))
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        raise ValueError(f"{path}{_line(error, path)}: {_explain(error)}") from error
    if not isinstance(result, kind):
        raise ValueError(f"{path}: {function}() returned {result!r}, not a {kind.__name__}.")
    return result


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """A context in which the files of a folder can be imported, as those beside a script can."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def override(
    config: ml_collections.ConfigDict, overrides: Sequence[str]
) -> ml_collections.ConfigDict:
    """The config with other values, such as `config.train.steps=100`, for some of its knobs."""
    known = knobs(config)
    given = {}
    for text in overrides:
        key, equals, value = text.removeprefix("--").partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not of the form config.train.steps=100.")
        given[key] = _parse(value, known[key]) if key in known else value
    return _with(known | given).lock()


def to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dictionaries, to be stored as JSON."""
    return config.to_dict()


def from_dict(
    values: Mapping[str, Any], where: str = "the stored config: "
) -> ml_collections.ConfigDict:
    """The config of `to_dict`, also after JSON; a knob younger than the run has its default.

    An error begins with `where` the values stand.
    """
    return _with(knobs(values), where).lock()


def of_task(values: Sequence[Any], tasks: Sequence[str], name: str) -> Any:
    """What a knob that has one value for all tasks, or one for each, has for this one."""
    return values[list(tasks).index(name) if len(values) > 1 else 0]


def differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """The knobs in which two configs differ, each with its value in `a` and in `b`."""
    left, right = knobs(a), knobs(b)
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}


def knobs(
    config: ml_collections.ConfigDict | Mapping[str, Any], prefix: str = "config"
) -> dict[str, Any]:
    """Every knob by its full name: `{"config.train.steps": 2000, ...}`."""
    flat = {}
    for name, value in config.items():
        key = f"{prefix}.{name}"
        group = isinstance(value, ml_collections.ConfigDict | dict)
        flat.update(knobs(value, key) if group else {key: value})
    return flat


def _with(values: Mapping[str, Any], where: str = "") -> ml_collections.ConfigDict:
    """The default with `values` by full name; an error begins with `where` they stand."""
    config = default()
    known = knobs(config)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key in values:
        if key not in known:
            raise ValueError(f"{where}{_not_a_knob(key, known)}")
    check_types(values, where)
    config.update_from_flattened_dict(values, strip_prefix="config.")
    return config


def check_types(values: Mapping[str, Any], where: str = "") -> None:
    """Raises ValueError, which begins with `where`, for a value that a knob may not hold."""
    known = knobs(default())
    for key, value in values.items():
        if not _is_like(value, known[key]):
            kind = _kind(known[key])
            raise ValueError(f"{where}{key}={value!r} is not {kind}, as {known[key]!r} is.")


def _not_a_knob(key: str, known: Mapping[str, Any]) -> str:
    """Says that `key` is no knob, and which one comes nearest."""
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"{key} is a group of knobs, not one: {', '.join(inside)}."
    # The common prefix would make every pair look alike.
    short = {name.removeprefix("config."): name for name in known}
    near = difflib.get_close_matches(key.removeprefix("config."), short, n=1)
    hint = f"did you mean {short[near[0]]}?" if near else "`clickflax train --help` lists them all."
    return f"{key} is not a knob; {hint}"


def _is_like(value: Any, example: Any) -> bool:
    """Whether a knob that holds `example` may hold `value`; an empty tuple is one of strings."""
    if isinstance(example, tuple):
        first = example[0] if example else ""
        return isinstance(value, tuple) and all(_is_like(element, first) for element in value)
    if isinstance(example, float):
        return isinstance(value, float | int) and not isinstance(value, bool) and _is_finite(value)
    # A bool is an int to Python, but not to a reader of configs.
    return isinstance(value, type(example)) and isinstance(value, bool) == isinstance(example, bool)


def _is_finite(number: float | int) -> bool:
    """Whether a number is neither NaN nor infinite, also as a float."""
    return abs(number) <= sys.float_info.max


def _kind(example: Any) -> str:
    """The type of a knob in words."""
    if isinstance(example, tuple):
        return f"a tuple of {type(example[0] if example else '').__name__}"
    finite = " and finite" if isinstance(example, float) else ""
    return f"of type {type(example).__name__}{finite}"


def _parse(text: str, example: Any) -> Any:
    """The value of a knob from the command line; what does not parse stays text, to be refused."""
    if isinstance(example, str):
        return text
    if isinstance(example, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = tuple(filter(None, text.split(","))) if isinstance(example, tuple) else text
    if isinstance(example, tuple) and not isinstance(value, tuple | list):
        return (value,)
    return value


def _line(error: Exception, path: pathlib.Path) -> str:
    """The line of the file, if any, on which an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _explain(error: Exception) -> str:
    """An error of such a file in words; an unknown group names the nearest one."""
    if isinstance(error, AttributeError) and isinstance(error.obj, ml_collections.ConfigDict):
        groups = {key.rsplit(".", 1)[0]: None for key in knobs(default())}
        return _not_a_knob(f"config.{error.name}", groups)
    return f"{type(error).__name__}: {error}"
