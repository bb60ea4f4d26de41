"""Generated events that are dense in the keys the mapping knows, so that its corners are hit."""

from hypothesis import strategies as st

_TEXTS = ["", "x", "é😀", "1.1.1.1", "10.0.0.1, 2.2.2.2", "Europe/Berlin", "curl/7.68.0"]
LEAVES = st.sampled_from([None, False, True, 0, 1, -2, 1.0, 0.5, *_TEXTS, *_TEXTS])

_INNER_NAMES = (
    "title referrer url path search name version manufacturer model advertisingId id type"
    " anonymous_id internal_id campaign source event_id user width height page k"
).split()
_SHARED_NAMES = (
    "page title traits campaign location user_agent userAgent os device locale ip referrer referer"
    " screen timezone user ids doc utm parsed_ua source_ip page_title user_language event_type"
    " eventn_ctx eventn_ctx_event_id event_id messageId _timestamp src api_key hashed_anonymous_id"
    " type event name anonymousId userId context properties app library x"
).split()

_OBJECTS = st.dictionaries(
    st.sampled_from(_INNER_NAMES),
    LEAVES | st.dictionaries(st.sampled_from(_INNER_NAMES), LEAVES, max_size=2),
    max_size=5,
)
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=2), _OBJECTS, _OBJECTS)


_RARE = st.dictionaries(st.sampled_from(_SHARED_NAMES), VALUES, max_size=4)


def _objects_with(names, **special):
    """Return objects that hold each of *names* half of the time, and now and then any other."""
    known = st.fixed_dictionaries(
        {}, optional={name: special.get(name, VALUES) for name in names.split()}
    )

    # A composite prints as its name; the parts would be printed at every nested level.
    @st.composite
    def objects(draw):
        return draw(_RARE) | draw(known)

    return objects()


PROPERTIES = _objects_with("page user os")
CONTEXTS = _objects_with(
    "page traits campaign location user_agent userAgent os device locale ip referrer",
    traits=VALUES | _OBJECTS,
)
EVENTS = _objects_with(
    "context properties traits anonymousId userId type",
    context=VALUES | CONTEXTS | CONTEXTS | CONTEXTS,
    properties=VALUES | PROPERTIES | PROPERTIES,
)

ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_SHARED_NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
