"""Every knob, once: `default()` is the whole list, a config file changes some of them."""

import ast
import difflib
import pathlib
import runpy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

T = TypeVar("T")


def default() -> ml_collections.ConfigDict:
    """The configuration with every knob at its default: a small BERT4Rec on simulated data."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of parameters, masks, dropout and the order of the data
    c.tasks = ("masked_item",)  # next_item (SASRec), basket, purchase, returns, label; or several
    c.task_weights = (1.0,)  # of their losses, for each of them or one for all
    c.task_where = ("",)  # of which events they ask, such as action=buy|cart or part=-1; "": of all

    c.data = ml_collections.ConfigDict()
    c.data.path = ""  # folder or URL of a data set; empty: a simulated shop in the work folder
    c.data.variables = ("item",)  # what is read of an event: item, others, gap, hour, item.FEATURE
    c.data.given = ()  # of these, what is asked for may be told: next item, given action=buy
    c.data.quantiles = ()  # numbers that are read as ids of so many quantiles, such as price=20
    c.data.weight = ""  # a number: what targets weigh in the loss; neither masks nor metrics change
    c.data.half_life = ""  # targets that are so much older weigh half: 30d; or so many sequences
    c.data.chain = ""  # a pause (30m) or a variable (invoice) begins a new part, after a SEP
    c.data.cls = False  # every window opens with CLS
    c.data.split = "leave_one_out"  # time, ratio, parts (or each of these _each), sequence_time
    c.data.validation_users = -1  # users with a validation item: -1 all, 0 none, or that many
    c.data.validation_from = ""  # split time: where validation begins: 2015-09-01T12:00:00, or 4/6
    c.data.test_from = ""  # split time: where the test begins: a moment (UTC), or a share of events
    c.data.test_until = ""  # split time: first moment after the test; empty: the log is its end
    c.data.validation_share = 0.1  # split ratio: of the events of a sequence, before the test
    c.data.test_share = 0.1  # split ratio: of its last events
    c.data.window = "last"  # last, sliding (with data.stride), or random (a new crop each epoch)
    c.data.stride = 50  # events between the starts of sliding windows
    c.data.packing = True  # several sequences share a row; False: one a row
    c.data.position_from = "end"  # the end or the start of a window has position 0

    c.mask = ml_collections.ConfigDict()
    c.mask.ratio = 0.2  # share of the events of a sequence that are hidden, at least one
    c.mask.replace = "mask"  # hidden events become MASK; or 80/10/10: MASK, another item, itself
    c.mask.last = 0.0  # share of the sequences in which only the last event is hidden
    c.mask.unknown = 0.0  # share of the items that are read as UNK in training; 1: at all times

    c.loss = ml_collections.ConfigDict()  # of the tasks that ask for items or for other values
    c.loss.name = "softmax"  # bce (SASRec), gbce (gSASRec) or bpr
    c.loss.negatives = 0  # drawn for each target; 0: softmax over the whole catalog
    c.loss.drawn = "uniform"  # popularity, or in_batch: of the targets of the step
    c.loss.shared = False  # the same negatives for all targets of a step
    c.loss.avoid = "target"  # what does not count as a negative: nothing, target, history
    c.loss.log_q = False  # softmax: negatives are corrected by how likely they are drawn
    c.loss.calibration = 0.75  # gbce: t, from 0 (as bce) to 1
    c.loss.smoothing = 0.0  # softmax over the catalog: share of the target that all items get

    c.label = ml_collections.ConfigDict()
    c.label.buy = "buy"  # purchase, returns: the action of a purchase
    c.label.back = "return"  # returns: the action of a purchase that came back
    c.label.after = 0  # purchase: asked at every event; after so many; -1: at the last before it
    c.label.path = ""  # label: CSV or Parquet file of sequence, label, perhaps event, weight
    c.label.kind = "binary"  # label: binary, number or classes (0, 1, ...)
    c.label.classes = 2  # label: how many
    c.label.at = "event"  # asked at the event that has the label; cls: at CLS, once a sequence
    c.label.causal = True  # told from the events so far; False: from the whole range that is read
    c.label.share = 1.0  # of the sequences with labels, how many are trained on: drawn by the seed
    c.label.positive = 1.0  # times that the loss of a yes counts

    c.model = ml_collections.ConfigDict()
    c.model.width = 64
    c.model.widths = ()  # of variables that are not as wide as the model: action=8, item=32
    c.model.combine = "sum"  # of the variables; concat: side by side, then projected
    c.model.block = "transformer"  # hstu or gru
    c.model.layers = 2
    c.model.shared_layers = False  # all are one and the same (ALBERT)
    c.model.heads = 2
    c.model.max_len = 200  # longest sequence, in events
    c.model.feed_forward = 256  # width of the hidden layer of a block
    c.model.norm = "post"  # LayerNorm after the residual sum (BERT), pre; query: as SASRec has it
    c.model.activation = "gelu"  # gelu, relu or silu
    c.model.glu = False  # feed-forward: a third layer is multiplied with the activation
    c.model.gate = False  # branches are multiplied by a sigmoid of what they are added to (LiGR)
    c.model.positions = "learned"  # sinusoidal, none, rotary, relative or disentangled (DeBERTa)
    c.model.relative_time = False  # attention compares the variable time, which is not embedded
    c.model.output = "dense"  # what stands before the scores: dense (BERT4Rec) or none (SASRec)
    c.model.output_bias = True  # one bias an item
    c.model.tied = True  # scores with the table of the inputs
    c.model.cosine = False  # products of answers and items are the cosines of their angles
    c.model.temperature = 1.0  # that products are divided by, before biases are added
    c.model.repeat = False  # items of the history score more or less: by how often, how long ago
    c.model.scale_embeddings = False  # multiply item embeddings by sqrt(width)
    c.model.embedding_norm = True  # LayerNorm over the sum of the embeddings
    c.model.initializer = "normal"  # normal, truncated_normal (with init_stddev) or xavier
    c.model.init_stddev = 0.02
    c.model.dropout = 0.1  # on embeddings and on the output of every branch
    c.model.attention_dropout = 0.1  # on attention weights
    c.model.attention = "auto"  # xla, cudnn, pallas_gpu or pallas_tpu; auto: what can do it here
    c.model.dtype = "float32"  # of computation, or bfloat16; parameters and sums stay float32
    c.model.remat = "none"  # computed twice to save memory, except on CPU: none, attention, block

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"  # or lamb
    c.optim.learning_rate = 1e-3  # the peak
    c.optim.schedule = "constant"  # constant, linear or cosine: after the warm-up, down to 0
    c.optim.warmup_steps = 100
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.01  # never on norms and biases
    c.optim.clip_norm = 1.0  # global gradient norm; 0 turns clipping off
    c.optim.layer_decay = 1.0  # times the rate, for each layer below the heads; embedder last

    c.train = ml_collections.ConfigDict()
    c.train.steps = 2000
    c.train.batch_size = 128  # sequences a step; packed, that many on average
    c.train.micro_rows = 0  # rows a gradient is taken of at once, then summed; 0: by the backend
    c.train.softmax_chunk = 0  # items whose scores are held at once; 0: by size and backend
    c.train.steps_at_once = 0  # a dispatch, on resident data; 1: host batches; 0: by backend, size
    c.train.parallel = "jit"  # or pmap: the same step, the same numbers
    c.train.cpu_devices = 0  # devices that the CPU is split into; 0: one a core
    c.train.model_devices = 1  # that share each table by rows; the others have rows of the batch
    c.train.log_every = 50  # steps
    c.train.eval_every = 200  # steps
    c.train.monitor = "ndcg@10"  # the validation metric that chooses the best checkpoint
    c.train.wandb = ""  # project of Weights & Biases that gets the metrics, too; empty: none
    c.train.patience = 0  # evaluations without a new best before an early stop; 0: never

    c.eval = ml_collections.ConfigDict()
    c.eval.cutoffs = (1, 5, 10, 20)
    c.eval.filter_seen = True  # leave out what the user has already had, but never the target
    c.eval.negatives = 0  # for each target, among which it is ranked; 0: among all items
    c.eval.drawn = "uniform"  # these negatives, or by popularity; always the same for a data set
    c.eval.unseen = True  # drawn of what the user has not had; False: of all, less what was seen
    c.eval.given = ()  # what is told of the event that is asked for, such as action=buy
    c.eval.batch_size = 256  # users at once

    c.init = ml_collections.ConfigDict()
    c.init.run = ""  # start from the best parameters of this run
    c.init.skip = ()  # patterns of parameters that start fresh, such as head_*
    c.init.vocab = "same"  # or remap: rows go over by token; a new token has the mean of the others
    c.init.freeze = ()  # patterns of parameters that are not trained, such as embedder/*
    c.init.thaw = 0  # steps after which they are trained, too; 0: never
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
        names = runpy.run_path(str(path))
        if function not in names:
            raise ValueError(f"there is no function {function}() in this file.")
        found = names[function](*([word] if colon else []))
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        raise ValueError(f"{path}{_line(error, path)}: {_explain(error)}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path}: {function}() returned {found!r}, not a {kind.__name__}.")
    return found


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


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of `to_dict`, also after JSON; a knob younger than the run has its default."""
    return _with(knobs(ml_collections.ConfigDict(values)), "the stored config: ").lock()


def of_task(values: Sequence[Any], tasks: Sequence[str], name: str) -> Any:
    """What a knob that has one value for all tasks, or one for each, has for this one."""
    return values[list(tasks).index(name) if len(values) > 1 else 0]


def differences(
    a: ml_collections.ConfigDict, b: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """The knobs in which two configs differ, each with its value in `a` and in `b`."""
    left, right = knobs(a), knobs(b)
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}


def knobs(config: ml_collections.ConfigDict, prefix: str = "config") -> dict[str, Any]:
    """Every knob by its full name: `{"config.train.steps": 2000, ...}`."""
    flat = {}
    for name, value in config.items():
        key = f"{prefix}.{name}"
        group = isinstance(value, ml_collections.ConfigDict)
        flat.update(knobs(value, key) if group else {key: value})
    return flat


def _with(values: Mapping[str, Any], where: str = "") -> ml_collections.ConfigDict:
    """The default with `values` by full name; an error begins with `where` they stand."""
    config = default()
    known = knobs(config)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}{_not_a_knob(key, known)}")
        if not _is_like(value, known[key]):
            kind = _kind(known[key])
            raise ValueError(f"{where}{key}={value!r} is not {kind}, as {known[key]!r} is.")
    config.update_from_flattened_dict(values, strip_prefix="config.")
    return config


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
        return isinstance(value, float | int) and not isinstance(value, bool)
    # A bool is an int to Python, but not to a reader of configs.
    return isinstance(value, type(example)) and isinstance(value, bool) == isinstance(example, bool)


def _kind(example: Any) -> str:
    """The type of a knob in words."""
    if isinstance(example, tuple):
        return f"a tuple of {type(example[0] if example else '').__name__}"
    return f"of type {type(example).__name__}"


def _parse(text: str, example: Any) -> Any:
    """The value of a knob from the command line; what does not parse stays text, to be refused."""
    if isinstance(example, str):
        return text
    if isinstance(example, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
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
    """An error of such a file in words; a group that is not there names the nearest one."""
    if isinstance(error, AttributeError) and isinstance(error.obj, ml_collections.ConfigDict):
        groups = {key.rsplit(".", 1)[0]: None for key in knobs(default())}
        return _not_a_knob(f"config.{error.name}", groups)
    return f"{type(error).__name__}: {error}"
