"""The words of the world: what things, people, places and deeds are called.

A concept is a tuple of words that mean the same; its first word is its name. The words are common English (nearly all
of them whole pieces of a BERT vocabulary), so that a pretrained encoder knows which of them belong together, and a
model that has only counted the words of the training rows does not.
"""

from __future__ import annotations


def several(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


COLOURS = (
    ("red", "scarlet", "crimson"),
    ("blue", "navy"),
    ("green", "emerald"),
    ("yellow", "golden"),
    ("purple", "violet"),
    ("orange", "amber"),
    ("black", "ebony"),
    ("white", "ivory"),
    ("pink", "rose"),
    ("brown", "tan"),
    ("grey", "silver", "gray"),
)
SIZES = (("large", "big", "huge"), ("small", "little", "tiny"))
SHAPES = (
    ("ball", "sphere", "globe"),
    ("cube", "block"),
    ("cone",),
    ("ring", "hoop"),
    ("star",),
    ("cross",),
    ("rod", "stick"),
    ("moon", "crescent"),
)
MATERIALS = (
    ("wooden",),
    ("glass",),
    ("metal", "steel"),
    ("plastic",),
    ("paper",),
    ("stone",),
    ("rubber",),
    ("leather",),
)

# Properties with an opposite. Each side is a concept.
OPPOSITES = (
    (("safe", "secure"), ("dangerous", "hazardous")),
    (("new", "modern"), ("old", "ancient")),
    (("clean", "tidy"), ("dirty", "filthy")),
    (("wet", "damp"), ("dry", "arid")),
    (("broken", "damaged"), ("intact", "whole")),
    (("cheap", "inexpensive"), ("expensive", "costly")),
    (("hot", "warm"), ("cold", "cool")),
    (("empty", "vacant"), ("full", "filled")),
    (("strong", "sturdy"), ("weak", "fragile")),
    (("rare", "unusual"), ("common", "ordinary")),
)

WOMEN = several(
    """
    Alice Anna Betty Carol Clara Daisy Diana Donna Ella Emily Emma Fiona Grace Hannah Helen Irene Jane Janet Judy
    Julia Karen Kate Laura Lily Linda Lucy Maria Martha Mary Megan Molly Nancy Nora Olivia Paula Rachel Rosa Ruth
    Sally Sarah Sophie Susan Tina Vera Wendy
    """
)
MEN = several(
    """
    Adam Alan Albert Andy Arthur Ben Brian Carl Chris Daniel David Dennis Edward Eric Frank Fred Gary George Harry
    Henry Hugo Ian Jack James Jason Jim Joe John Kevin Leo Louis Mark Martin Max Neil Oliver Oscar Paul Peter Philip
    Ray Robert Roger Sam Simon Steve Theo Thomas Tim Tom Victor Walter William
    """
)

ROLES = (
    ("boy", "lad"),
    ("doctor", "physician"),
    ("child", "kid"),
    ("cook", "chef"),
    ("painter", "artist"),
    ("thief", "robber", "burglar"),
    ("writer", "author"),
    ("lawyer", "attorney"),
    ("teacher", "tutor"),
    ("policeman", "officer"),
    ("farmer",),
    ("friend", "buddy"),
    ("mother", "mom"),
    ("father", "dad"),
    ("woman", "lady"),
    ("man", "gentleman"),
    ("sailor", "seaman"),
    ("student", "pupil"),
    ("boss", "manager"),
    ("driver",),
    ("nurse",),
    ("baker",),
    ("guest", "visitor"),
    ("king", "monarch"),
    ("priest",),
    ("merchant", "trader"),
    ("singer", "vocalist"),
    ("pilot",),
    ("actor", "performer"),
    ("scientist", "researcher"),
    ("hunter",),
    ("soldier",),
    ("judge",),
    ("waiter", "server"),
    ("girl",),
    ("spy", "agent"),
    ("gardener",),
    ("prince",),
    ("witch",),
    ("clerk",),
)

# A verb: base, past, participle.
DEEDS = (
    (("lift", "lifted", "lifted"), ("raise", "raised", "raised")),
    (("hide", "hid", "hidden"), ("conceal", "concealed", "concealed")),
    (("throw", "threw", "thrown"), ("toss", "tossed", "tossed")),
    (("break", "broke", "broken"), ("smash", "smashed", "smashed")),
    (("wash", "washed", "washed"), ("clean", "cleaned", "cleaned")),
    (("buy", "bought", "bought"), ("purchase", "purchased", "purchased")),
    (("take", "took", "taken"), ("grab", "grabbed", "grabbed")),
    (("push", "pushed", "pushed"), ("shove", "shoved", "shoved")),
    (("find", "found", "found"), ("discover", "discovered", "discovered")),
    (("repair", "repaired", "repaired"), ("fix", "fixed", "fixed")),
    (("steal", "stole", "stolen"),),
    (("draw", "drew", "drawn"), ("sketch", "sketched", "sketched")),
    (("shake", "shook", "shaken"), ("rattle", "rattled", "rattled")),
    (("choose", "chose", "chosen"), ("select", "selected", "selected")),
    (("build", "built", "built"), ("construct", "constructed", "constructed")),
    (("inspect", "inspected", "inspected"), ("examine", "examined", "examined")),
    (("drop", "dropped", "dropped"),),
    (("paint", "painted", "painted"),),
    (("sell", "sold", "sold"),),
    (("kick", "kicked", "kicked"),),
    (("burn", "burned", "burned"),),
    (("weigh", "weighed", "weighed"),),
    (("lose", "lost", "lost"),),
    (("wrap", "wrapped", "wrapped"),),
    (("carry", "carried", "carried"), ("haul", "hauled", "hauled")),
    (("praise", "praised", "praised"),),
    (("count", "counted", "counted"),),
    (("photograph", "photographed", "photographed"),),
    (("polish", "polished", "polished"),),
    (("bury", "buried", "buried"),),
)

# What one person does to another.
MEETINGS = (
    (("help", "helped", "helped"), ("assist", "assisted", "assisted")),
    (("follow", "followed", "followed"), ("pursue", "pursued", "pursued")),
    (("thank", "thanked", "thanked"),),
    (("blame", "blamed", "blamed"), ("accuse", "accused", "accused")),
    (("hire", "hired", "hired"), ("employ", "employed", "employed")),
    (("greet", "greeted", "greeted"), ("welcome", "welcomed", "welcomed")),
    (("visit", "visited", "visited"),),
    (("phone", "phoned", "phoned"), ("call", "called", "called")),
    (("rescue", "rescued", "rescued"), ("save", "saved", "saved")),
    (("warn", "warned", "warned"), ("alert", "alerted", "alerted")),
    (("teach", "taught", "taught"), ("instruct", "instructed", "instructed")),
    (("pay", "paid", "paid"),),
    (("hit", "hit", "hit"), ("strike", "struck", "struck")),
    (("love", "loved", "loved"), ("adore", "adored", "adored")),
    (("invite", "invited", "invited"),),
    (("deceive", "deceived", "deceived"), ("trick", "tricked", "tricked")),
    (("marry", "married", "married"), ("wed", "wed", "wed")),
    (("kiss", "kissed", "kissed"),),
)

PLACES = (
    ("on the shelf",),
    ("on the floor", "on the ground"),
    ("in the basket",),
    ("in the drawer",),
    ("under the table",),
    ("by the window",),
    ("near the door", "near the entrance"),
    ("behind the sofa", "behind the couch"),
    ("on the chair", "on the seat"),
    ("in the garden", "in the yard"),
    ("in the kitchen",),
    ("in the bag", "in the sack"),
    ("beside the lamp",),
    ("on the rug", "on the carpet"),
    ("in the hall", "in the corridor"),
    ("by the wall",),
    ("by the gate", "by the entry"),
    ("in the cupboard", "in the closet"),
    ("on the bed",),
    ("in the attic", "in the loft"),
    ("in the basement", "in the cellar"),
    ("in the street", "in the road"),
    ("on the roof",),
    ("in the car",),
    ("by the river", "by the stream"),
    ("near the fire",),
    ("in the shop", "in the store"),
    ("by the sea", "by the ocean"),
    ("on the path", "on the trail"),
    ("in the cottage", "in the cabin"),
    ("in the hotel", "in the inn"),
    ("in the bar", "in the pub"),
    ("in the prison", "in the jail"),
    ("in the hospital", "in the clinic"),
    ("at school",),
    ("on the bridge",),
    ("in the forest", "in the woods"),
)
TIMES = (
    ("in the morning",),
    ("at noon", "at midday"),
    ("last night",),
    ("before lunch",),
    ("on Monday",),
    ("at dawn", "at sunrise"),
    ("at dusk", "at sunset"),
    ("yesterday",),
    ("on Friday",),
    ("in winter",),
    ("in summer",),
    ("during the storm",),
    ("after dinner", "after supper"),
    ("in March",),
    ("an hour ago",),
    ("on Sunday",),
)
REASONS = (
    ("to please the guests",),
    ("to win a bet",),
    ("for a joke", "for fun"),
    ("for the party",),
    ("out of boredom",),
    ("to save money",),
    ("by mistake", "by accident"),
    ("to make room",),
    ("out of anger", "out of rage"),
    ("for a school project",),
    ("for money",),
    ("to help a neighbour",),
    ("out of curiosity",),
    ("as a present", "as a gift"),
)

# Where one thing lies as seen from another: the words, and the converse's.
RELATIONS = (
    (("to the left of", "left of"), ("to the right of", "right of")),
    (("above", "over"), ("below", "under")),
    (("in front of", "before"), ("behind", "at the back of")),
)
