"""Commands of the `heap` machine. They go into the log, and each has one reply."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.protocol.broker.fields import (
    BATCH_MAX,
    CREDIT_GROUP_MAX,
    DELIVERY_LIMIT_MAX,
    ERROR_CHARACTERS,
    GROUPS_MAX,
    HELD_MAX,
    NAME_CHARACTERS,
    NAMED_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    STAGE_DONE,
    TOKENS_MAX,
    Changes,
    CreditGroup,
    Duration,
    Epoch,
    Exact,
    Group,
    Keys,
    Name,
    Stage,
    Token,
)
from disheap.protocol.broker.message import NewMessage


class Enqueue(Exact, tag=1, frozen=True):
    """Put one message into a topic. Reply: `Enqueued`."""

    topic: str
    message: NewMessage


class EnqueueMany(Exact, tag=2, frozen=True):
    """All or none. Reply: `EnqueuedMany`."""

    topic: str
    messages: Annotated[list[NewMessage], Meta(min_length=1, max_length=BATCH_MAX)]


class Publish(Exact, tag=3, frozen=True):
    """Route one message through an exchange ("" is the default exchange: the routing key is the topic's name). Reply:
    `Published`; with `mandatory`, nothing matched is `TopicNotFound`."""

    exchange: str
    routing_key: str
    message: NewMessage
    mandatory: bool = False


class Subscribe(Exact, tag=4, frozen=True):
    """Begin a consumer of a topic for this session. `credit`: at most so many unsettled deliveries, 1 to CREDIT_MAX.
    `credit_bytes`: the same in bytes of messages, up to CREDIT_BYTES_MAX; 0 for the machine's bound. One message always
    passes. `no_ack`: a delivery is settled when it is sent. `lease_ms`: how long a lease lasts; 0 for as long as the
    session. `exclusive`: the topic has no other consumer. `group`: consumers of this session with the same number, 1 or
    more, share one credit: the one given last. Their topics take turns. Reply: `Subscribed`."""

    topic: str
    credit: int
    credit_bytes: int = 0
    no_ack: bool = False
    lease_ms: Duration = 0
    exclusive: bool = False
    group: CreditGroup = 0


class SetCredit(Exact, tag=5, frozen=True):
    """Set the credit of a consumer. If `group` is not 0, `consumer` is 0 and the credit is that of the group. A group
    with a credit of 0 is sent nothing. Reply: `Done`."""

    consumer: int
    credit: int
    credit_bytes: int = 0
    group: CreditGroup = 0


class Cancel(Exact, tag=6, frozen=True):
    """End a consumer or a pop. `give_back`: its leases end at once. Otherwise each lasts until it is settled (AMQP's
    rule). `release`: the messages that are given back were not begun, so their deliveries do not count. Reply:
    `Done`."""

    consumer: int
    give_back: bool = False
    release: bool = False


class Pop(Exact, tag=7, frozen=True):
    """Take up to `count` messages: those that are there, then those that come within `wait_ms`. Reply: `Subscribed`
    with the number of the pop. Pushes follow: each message as a `Deliver`, then `PopDone`."""

    topic: str
    count: int = 1
    wait_ms: Duration = 0
    lease_ms: Duration = 0
    no_ack: bool = False


class Ack(Exact, tag=8, frozen=True):
    """The messages are done with. A token that names no lease of this session has no effect. Reply: `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=TOKENS_MAX)]


class Nack(Exact, tag=9, frozen=True):
    """Give messages back to their place in the topic, or after `delay_ms`. Without a delay that of the topic applies
    (`retry_delay_ms`). With `discard` they are not given back: they are dead-lettered, or dropped if the topic names no
    place for dead letters. `release`: the messages were not begun, so the delivery does not count. `error`: what went
    wrong, for people; a dead letter shows it. `release` with `discard` or an `error` is `InvalidArgument`. Reply:
    `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=TOKENS_MAX)]
    delay_ms: Duration = 0
    discard: bool = False
    release: bool = False
    error: Annotated[str, Meta(max_length=ERROR_CHARACTERS)] = ""


class Extend(Exact, tag=10, frozen=True):
    """Let leases end `lease_ms` from now; 0 for with the session. Reply: `Settled`."""

    tokens: Annotated[list[Token], Meta(min_length=1, max_length=TOKENS_MAX)]
    lease_ms: Duration = 0


class TopicSettings(Exact, frozen=True):
    """`mode`: with "max" the largest priority comes first, with "min" the smallest. A limit of 0 is none.
    `message_ttl_ms`: the expiry of messages that have none of their own. `expires_ms`: the topic is deleted after so
    long without a consumer, a pop or a `CreateTopic`. `auto_delete`: it is deleted when its last consumer has gone.
    `exclusive`: it belongs to the session that created it, and is deleted with that. `overflow`: what a full topic
    does. "reject" refuses a new message, "drop" drops the last of the ready ones. `priority_max`: a priority above is
    lowered to it, and one below 0 becomes 0. A negative `priority_max` bounds the priorities from it to 0.

    `delivery_limit`: a message whose deliveries have ended so often without an ack is dead-lettered (0: never).
    `dead_letter_topic`: the topic that gets the dead letters. It is created when the first one comes.
    `dead_letter_exchange`: the exchange to which they are published instead, with `dead_letter_key`; an empty key is
    the name of this topic. Without a topic and an exchange they are dropped. `retry_delay_ms`: the pause before a
    message that comes back is delivered again. It doubles with each attempt, up to `retry_delay_max_ms` (0: no
    bound)."""

    mode: str = "max"
    max_messages: Annotated[int, Meta(ge=0)] = 0
    message_ttl_ms: Duration = 0
    expires_ms: Duration = 0
    auto_delete: bool = False
    exclusive: bool = False
    overflow: str = "reject"
    priority_max: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)] = 0
    delivery_limit: Annotated[int, Meta(ge=0, le=DELIVERY_LIMIT_MAX)] = 0
    dead_letter_topic: Annotated[str, Meta(max_length=NAME_CHARACTERS)] = ""
    dead_letter_exchange: Annotated[str, Meta(max_length=NAME_CHARACTERS)] = ""
    dead_letter_key: Annotated[str, Meta(max_length=NAME_CHARACTERS)] = ""
    retry_delay_ms: Duration = 0
    retry_delay_max_ms: Duration = 0


class CreateTopic(Exact, tag=11, frozen=True):
    """Create a topic. If it exists with the same settings, nothing changes; with others it is `TopicMismatch`. An
    exclusive topic of another session is `TopicLocked` while that session is connected. Otherwise this session takes it
    over. Reply: `TopicInfo`."""

    topic: Name
    settings: TopicSettings = TopicSettings()


class UpdateTopic(Exact, tag=40, frozen=True):
    """Change settings of a topic that exists. `changes`: the new value of each setting that changes, by the name of
    its field in `TopicSettings`. All of them are changed, or none. `mode` and `exclusive` never change. `revision`:
    that of the `TopicInfo` which the caller has seen. If the topic has another one by now, it is `TopicMismatch`; 0 for
    any. A `message_ttl_ms` or a `priority_max` holds for messages that come from now on. What is too much for a topic
    that drops is dropped soon; one that refuses keeps what it has. Reply: `TopicInfo`."""

    topic: Name
    changes: Changes
    revision: Annotated[int, Meta(ge=0)] = 0


class PauseTopic(Exact, tag=41, frozen=True):
    """Pause a topic or let it go on. `deliveries`: whether it hands out no message. `enqueues`: whether it takes none.
    None leaves either as it is. While enqueues are paused, a new message is `TopicPaused`. What was promised comes in:
    messages that are given back, dead letters, and messages of transactions and barriers. Leases last as they would.
    While deliveries are paused, a pop waits, or ends without a message. Reply: `TopicInfo`."""

    topic: Name
    deliveries: bool | None = None
    enqueues: bool | None = None


class DeleteTopic(Exact, tag=12, frozen=True):
    """Delete a topic and its messages. Its consumers get `ConsumerEnded`. With `if_unused`, consumers make it
    `TopicInUse`; with `if_empty`, messages do. Reply: `Removed`."""

    topic: str
    if_unused: bool = False
    if_empty: bool = False


class Purge(Exact, tag=13, frozen=True):
    """Drop every ready and delayed message. Leased ones stay. Reply: `Removed`."""

    topic: str


class CreateExchange(Exact, tag=14, frozen=True):
    """Create an exchange of the kind "direct", "topic", "fanout" or "headers". If it exists, nothing changes; with
    another kind it is `ExchangeMismatch`. `auto_delete`: it is deleted with its last binding. `alternate`: the exchange
    that gets messages for which there is no binding here, with the same routing key. It need not exist yet. Reply:
    `Done`."""

    exchange: Name
    kind: str = "direct"
    auto_delete: bool = False
    alternate: str = ""


class DeleteExchange(Exact, tag=15, frozen=True):
    """Delete an exchange and its bindings, if it exists. With `if_unused`, bindings make it `TopicInUse`. Reply:
    `Done`."""

    exchange: str
    if_unused: bool = False


class Bind(Exact, tag=16, frozen=True):
    """Route messages of an exchange into a topic, by a routing key. For a topic exchange the key is a pattern: `*`
    stands for one word, `#` for any number of words. For a headers exchange `arguments` is a MessagePack map by itself,
    with the rule of headers, of at most 16 arguments and 4 KiB. Nil asks only that the message has the header.
    `x-match` says how many of the others have to match: "all" (the default) or "any". Names that begin with `x-` do
    not count, unless it is "all-with-x" or "any-with-x". The routing key is then a part of the binding's name alone.
    Other exchanges refuse arguments. Reply: `Done`."""

    exchange: str
    topic: str
    routing_key: str = ""
    arguments: bytes = b""


class Unbind(Exact, tag=17, frozen=True):
    """Delete the binding with this key and these arguments, if it exists. Reply: `Done`."""

    exchange: str
    topic: str
    routing_key: str = ""
    arguments: bytes = b""


class Recover(Exact, tag=18, frozen=True):
    """Give back every lease of these consumers (AMQP's basic.recover with requeue). Reply: `Done`."""

    consumers: Annotated[list[int], Meta(max_length=BATCH_MAX)]


class SetValue(Exact, tag=27, frozen=True):
    """Store a value under a key, in place of an earlier one. `expires_ms`: dropped after so long (0: never). `stage`: 0
    is an interim value, and more will follow; 1 is an outcome; 2 is an outcome that is never replaced. Sessions that
    watch the key are pushed a `ValueSet`, and an outcome ends their watches. `barrier`: the value also arrives there,
    as a part with this `order`. The same key and order arrive once, however often they are sent. Reply: `Stored`."""

    key: Name
    value: bytes
    expires_ms: Duration = 0
    stage: Stage = STAGE_DONE
    barrier: Annotated[str, Meta(max_length=NAME_CHARACTERS)] = ""
    order: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)] = 0


class DeleteValues(Exact, tag=28, frozen=True):
    """Drop the values under these keys. A key without a value is fine. Reply: `Removed`."""

    keys: Keys


class Watch(Exact, tag=29, frozen=True):
    """Push a `ValueSet` to this session whenever one of these keys gets a value, up to its outcome. A key whose outcome
    is there is not watched. Watches end with the session. Reply: `Values`, with what is there now."""

    keys: Keys


class Unwatch(Exact, tag=30, frozen=True):
    """End the watches of this session on these keys. Reply: `Done`."""

    keys: Keys


class SetBarrier(Exact, tag=31, frozen=True):
    """Create a barrier, or say more about one. `size`: how many parts it waits for; 0 leaves it as it is. `more`: it
    waits for so many beyond its size. `message`: published once, when the last part arrives; None leaves it as it is.
    `lifetime_ms`: the barrier is dropped so long after the last command that touched it. 0 leaves it as it is. Without
    a lifetime, a barrier stays until it is closed. A closed barrier is not changed, unless with `reopens`: then it
    begins anew. Reply: `BarrierInfo`."""

    barrier: Name
    size: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    more: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    message: Publish | None = None
    lifetime_ms: Duration = 0
    reopens: bool = False


class CloseBarrier(Exact, tag=32, frozen=True):
    """Close a barrier and drop its list of parts. A barrier that is closed or unknown is `BarrierClosed`. As an item of
    a `Batch`, it lets one of several attempts through. Reply: `Removed`, with the number of parts."""

    barrier: Name


BatchItem = Enqueue | Publish | Ack | Nack | CloseBarrier


class Batch(Exact, tag=19, frozen=True):
    """Enqueue, publish, settle and close barriers, all or nothing. The items take effect in their order, and then the
    topics are served. An item that is refused refuses the batch. A token that names no lease of this session is refused
    with `LeaseLost`, and a publish that any of its topics refuses with `TopicFull`. At most 1,500 parts: a part is a
    message for one topic, or a token. Many headers and long walks through patterns count as parts too. Reply:
    `Batched`."""

    items: Annotated[list[BatchItem], Meta(min_length=1, max_length=BATCH_MAX)]


class Prepare(Exact, tag=20, frozen=True):
    """Hold a batch back until a `Commit` or an `Abort`. Nobody sees its messages. The leases that it acknowledges end,
    and their messages stay out of reach. `timeout_ms`: this group is the coordinator's, and aborts when the time is
    over. With 0 it is a participant, and waits for ever. `epoch`: a later attempt under the same name has a higher one.
    `participants`: the coordinator's group tells these groups its decision. Their numbers are higher than its own, and
    ascend. A group that the cluster does not have is refused with `GroupNotFound`. `coordinator`: the participant gets
    its decision from that group, whose number is lower. -1: it does not. The items have the rules and the bounds of a
    `Batch`. A repeated `Prepare` changes nothing. Reply: `Done`."""

    transaction: Name
    epoch: Epoch
    timeout_ms: Duration
    items: Annotated[list[Enqueue | Publish | Ack], Meta(min_length=1, max_length=BATCH_MAX)]
    participants: Annotated[list[Group], Meta(max_length=GROUPS_MAX - 1)] = msgspec.field(default_factory=list)
    coordinator: Annotated[int, Meta(ge=-1, lt=GROUPS_MAX)] = -1


class Commit(Exact, tag=21, frozen=True):
    """Carry out what a `Prepare` of this transaction and epoch holds back. A repeated one has the same reply:
    `Committed`. An aborted transaction is `TransactionOver`. In the coordinator's group it is the decision, and the
    participants are told. A participant that waits for another group's decision needs `force`: that group may abort."""

    transaction: Name
    epoch: Epoch
    force: bool = False


class Abort(Exact, tag=22, frozen=True):
    """Drop what a `Prepare` of this transaction and epoch holds back, and give its leased messages back to their
    topics. A repeated one changes nothing. One that comes first refuses the `Prepare`. A committed transaction is
    `TransactionOver`. In the coordinator's group it is the decision, and the participants are told. A participant that
    waits for another group's decision needs `force`: the others may have committed. Reply: `Done`."""

    transaction: Name
    epoch: Epoch
    force: bool = False


class Decision(Exact, tag=0, frozen=True):
    """The coordinator's group tells a participant how a transaction ended."""

    transaction: Name
    epoch: Epoch
    is_committed: bool


class Inquiry(Exact, tag=1, frozen=True):
    """A participant asks the coordinator's group for its decision. That group answers with a `Decision`, or not yet. A
    transaction that it does not know is aborted."""

    transaction: Name
    epoch: Epoch


class GroupMessage(Exact, tag=23, frozen=True):
    """Message `number` of another group. A client that sends one is refused. It is taken once, after the one before.
    Reply: `Done`."""

    group: Group
    number: Annotated[int, Meta(ge=1)]
    message: Decision | Inquiry


class Confirm(Exact, tag=24, frozen=True):
    """Another group has the messages up to `number`: forget them. A client that sends one is refused. Reply: `Done`."""

    group: Group
    number: Annotated[int, Meta(ge=0)]


class SetGroups(Exact, tag=25, frozen=True):
    """These groups of the cluster take messages of others. A `Prepare` that names another one is refused from here on.
    A client that sends this is refused. Reply: `Done`."""

    groups: Annotated[list[Group], Meta(max_length=GROUPS_MAX)]


class Overtake(Exact, tag=26, frozen=True):
    """Ask for one message beyond the credit of a group. While the credit is used up, the first message whose urgency is
    above `above` is sent to the group, once. This may be at once, if such a message is ready. The urgency is the
    priority, negated in a topic of mode "min". Consumers with credit come first. Of several groups that asked, the one
    with the lowest `above` gets the message, and then the one that asked first. Asking again replaces `above`. It ends
    with the group. Reply: `Done`."""

    group: Annotated[int, Meta(ge=1, le=CREDIT_GROUP_MAX)]
    above: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)]


Command = (
    Enqueue
    | EnqueueMany
    | Publish
    | Subscribe
    | SetCredit
    | Cancel
    | Pop
    | Ack
    | Nack
    | Extend
    | CreateTopic
    | UpdateTopic
    | PauseTopic
    | DeleteTopic
    | Purge
    | CreateExchange
    | DeleteExchange
    | Bind
    | Unbind
    | Recover
    | Batch
    | Prepare
    | Commit
    | Abort
    | GroupMessage
    | Confirm
    | SetGroups
    | Overtake
    | SetValue
    | DeleteValues
    | Watch
    | Unwatch
    | SetBarrier
    | CloseBarrier
)


class Held(Exact, frozen=True):
    """The body of an ATTACH. It has the tokens of the leases that the client holds, and the numbers of its consumers
    and of the pops that it waits for. `Resumed.ended` names the pops and consumers that have ended. A lease that is not
    named is delivered again, so a client that holds more than HELD_MAX leases passes over those that it knows."""

    tokens: Annotated[list[Token], Meta(max_length=HELD_MAX)]
    tickets: Annotated[list[int], Meta(max_length=NAMED_MAX)] = msgspec.field(default_factory=list)
    consumers: Annotated[list[int], Meta(max_length=NAMED_MAX)] = msgspec.field(default_factory=list)


decode_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
decode_held: msgspec.msgpack.Decoder[Held] = msgspec.msgpack.Decoder(Held)
