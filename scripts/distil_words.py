"""A small thesaurus of things that people ask robots to do, and sentences made from it; `distil_text.py` learns from them.

Written by hand, from general knowledge of English. Phrases of one entry mean the same, phrases of two entries do not.
Slots: {x} a thing, {k} something that holds things, {v} something that is switched, {d} a direction, {s} a surface.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

Meaning = dict[str, str]
"""Slot -> entry; a slot that a sentence does not use is absent."""


def _split(table: str) -> dict[str, list[str]]:
    """Lines "entry: phrase, phrase, ..." as entry -> phrases."""
    rows = (line.partition(":") for line in table.strip().splitlines())
    return {entry.strip(): [phrase.strip() for phrase in phrases.split(",")] for entry, _, phrases in rows}


ACTIONS = _split("""
rotate: turn {x} {d}, rotate {x} {d}, spin {x} {d}, twist {x} {d}, pivot {x} {d}, swivel {x} {d}, twirl {x} {d}, revolve {x} {d}, take {x} and turn it {d}, grasp {x} and rotate it {d}, give {x} a turn {d}, give {x} a twist {d}, make {x} face further {d}, wheel {x} around {d}, reorient {x} {d}, swing {x} around {d}, {x} should be spun {d}, a {d} rotation of {x}, change the orientation of {x} {d}, turn {x} by ninety degrees {d}, let {x} rotate {d}, screw {x} {d}, angle {x} {d}, yaw {x} {d}, whirl {x} {d}, crank {x} {d}
push: push {x} {d}, shove {x} {d}, slide {x} {d}, move {x} {d}, nudge {x} {d}, shift {x} {d}, scoot {x} {d}, press {x} {d}, sweep {x} {d}, send {x} {d}, bump {x} {d}, knock {x} {d}, drive {x} {d}, propel {x} {d}, thrust {x} {d}, budge {x} {d}, guide {x} {d}, force {x} {d}, {x} should end up further {d}, drag {x} {d}, poke {x} {d}, {x} needs to go {d}, prod {x} {d}, herd {x} {d}, displace {x} {d}, brush {x} aside {d}, translate {x} {d}, relocate {x} {d} along {s}, tap {x} {d}, pull {x} {d}, bulldoze {x} {d}, give {x} a shove {d}, give {x} a push {d}, hustle {x} {d}, glide {x} {d} across {s}
shift_door: slide {g} {d}, push {g} {d}, move {g} {d}, shift {g} {d}, shove {g} {d}, pull {g} {d}, drag {g} {d}, roll {g} {d}, glide {g} {d}, take the handle of {g} and slide it {d}, grab {g} and bring it {d}, {g} belongs further {d}, send {g} {d}, draw {g} {d}, tug {g} {d}, haul {g} {d}, nudge {g} {d}, run {g} along its rail {d}, get {g} {d}, drive {g} {d}, scoot {g} {d}, force {g} {d}, {g} should stand {d}
open: open {k}, pull {k} open, slide {k} open, pull out {k}, tug {k} open, yank {k} open, draw {k} out, draw {k} towards you, get {k} open, unlatch {k}, unlock {k}, make {k} come out, extend {k}, pull {k} towards you, drag {k} out, reveal the inside of {k}, give me access to {k}, grab the handle of {k} and pull, take the knob of {k} and pull it, let me see inside {k}, uncover the contents of {k}, haul {k} open, expose {k}, unclose {k}, jerk {k} open, bring {k} out, {k} should be open, i want {k} opened, the handle of {k} should be pulled, unshut {k}, {k} is closed and i want to look into it
close: close {k}, shut {k}, push {k} closed, push {k} shut, slide {k} shut, push {k} in, slam {k}, push {k} back, seal {k}, retract {k}, shove {k} closed, make {k} go in, push against the handle of {k}, {k} should be closed, i want {k} shut, get {k} closed, press {k} home, push {k} away from you, return {k} to its closed position, bring {k} back in, tuck {k} in, fasten {k}, do not leave {k} open, stop {k} from standing open, {k} was left open so shut it, latch {k}, force {k} shut, conceal the inside of {k}, hide the contents of {k}, push {k} until it clicks, close {k} up, {k} must not stay open
lift: lift {x}, pick up {x}, pick {x} up, raise {x}, lift up {x}, hoist {x}, elevate {x}, grab {x}, grasp {x}, take {x}, seize {x}, grip {x} and raise it, clutch {x}, fetch {x}, take hold of {x} and lift, get {x} up in the air, {x} should be in your hand, pluck {x} from {s}, scoop {x} up, heave {x} up, snatch {x}, collect {x} from {s}, hold {x} up high, lift {x} off {s}, take {x} off {s}, pick {x} up from {s}, raise {x} above {s}, remove {x} from {s}, get {x} from {s}, catch {x}, haul {x} upward, gather {x} from {s}, bring {x} up, grab {x} and hold it over {s}, acquire {x}, boost {x} into the air, levitate {x}, uplift {x}
take_out: take {x} out of {k}, lift {x} out of {k}, remove {x} from {k}, get {x} out of {k}, pick {x} out of {k}, pull {x} out of {k}, fetch {x} from {k}, grab {x} from {k}, retrieve {x} from {k}, extract {x} from {k}, bring {x} out of {k}, raise {x} from {k}, pick up {x} from {k}, reach into {k} and take {x}, empty {k} of {x}, {x} lies in {k} take it, withdraw {x} from {k}, haul {x} out of {k}, lift {x} from inside {k}, pluck {x} out of {k}, {x} should leave {k}, snatch {x} from {k}, collect {x} from {k}, recover {x} from {k}, dig {x} out of {k}, scoop {x} out of {k}, grasp {x} in {k} and raise it, {x} is in {k} pick it up, hoist {x} out of {k}, free {x} from {k}, seize {x} inside {k}, obtain {x} from {k}
put_in: put {x} in {k}, place {x} in {k}, put {x} into {k}, store {x} in {k}, drop {x} into {k}, lay {x} in {k}, set {x} down in {k}, deposit {x} in {k}, insert {x} into {k}, stow {x} in {k}, release {x} in {k}, let go of {x} over {k}, pack {x} into {k}, put {x} away in {k}, tuck {x} into {k}, leave {x} inside {k}, load {x} into {k}, file {x} in {k}, lower {x} into {k}, hide {x} in {k}, keep {x} in {k}, return {x} to {k}, {x} belongs in {k}, what you hold goes in {k}, place what is in your hand in {k}, the thing you carry belongs in {k}, stash {x} in {k}, toss {x} into {k}, park {x} in {k}, transfer {x} into {k}, carry {x} to {k} and let go, open your gripper above {k}, position {x} inside {k}, house {x} in {k}
push_in: push {x} into {k}, shove {x} into {k}, slide {x} into {k}, sweep {x} into {k}, nudge {x} into {k}, push {x} until it falls into {k}, slide {x} over the edge so it drops into {k}, knock {x} into {k}, push {x} off {s} into {k}, make {x} tumble into {k} by pushing it, bump {x} into {k}, shift {x} until it falls in {k}, scoot {x} into {k}, brush {x} into {k}, tip {x} into {k}, push {x} over the rim of {k}, drive {x} into {k}, without lifting it get {x} into {k}, poke {x} until it drops into {k}, roll {x} into {k}, push {x} forward into {k}, plow {x} into {k}, herd {x} into {k}, move {x} along {s} until it falls into {k}
stack: stack {x} on {y}, put {x} on top of {y}, place {x} on {y}, pile {x} on {y}, set {x} upon {y}, lay {x} on top of {y}, build a tower with {x} and {y}, make a tower, put one on top of the other, pile them up, balance {x} on {y}, rest {x} on {y}, let {x} stand on {y}, construct a pile, what you hold goes on top of {y}, place what you are holding onto {y}, mount {x} on {y}, create a stack, top {y} with {x}, put {x} above {y}, drop {x} onto {y}, assemble a tower, leave {x} on top of {y}, park {x} atop {y}, stack them, erect a tower of {x}, heap {x} onto {y}, deposit {x} upon {y}, lower {x} onto {y}
unstack: unstack {x}, take {x} off {y}, remove {x} from {y}, take the tower apart, take down the tower, undo the stack, dismantle the pile, take the top one off, lift {x} off {y}, disassemble the tower, pull {x} off {y}, remove the upper one, separate {x} from {y}, bring {x} down from {y}, knock {x} off {y}, break up the pile, the upper one should come down, get the one on top down, unpile {x}, put the top one on {s}, clear {y} by taking {x} off, topple the tower, destroy the tower, split the stack, take {x} from the top of {y}, lower {x} from the tower to {s}, push {x} off {y}, deconstruct the stack, unload {x} from {y}
switch_on: turn on {v}, switch on {v}, turn {v} on, light {v}, activate {v}, enable {v}, power up {v}, start {v}, make {v} shine, make {v} glow, illuminate {v}, let {v} light up, put {v} on, get {v} going, {v} should be on, ignite {v}, {v} is off please change that, {v} is dark so switch it on, fire up {v}, bring {v} to life, energise {v}, {v} needs to be lit, use the control so that {v} comes on, i want {v} to be bright, brighten {v}, flick on {v}, power on {v}, set {v} to on, trigger {v}, i need light from {v}, kindle {v}, have {v} burning
switch_off: turn off {v}, switch off {v}, turn {v} off, extinguish {v}, deactivate {v}, disable {v}, power down {v}, stop {v}, shut off {v}, shut down {v}, put out {v}, make {v} dark, kill {v}, cut the power of {v}, {v} should be off, {v} should go dark, {v} is on please change that, {v} is still lit so switch it off, darken {v}, dim {v} completely, douse {v}, no more light from {v}, use the control so that {v} goes out, i want {v} to be dark, quench {v}, flick off {v}, power off {v}, set {v} to off, {v} is too bright, black out {v}, unlight {v}, make {v} stop shining, quit lighting {v}
lever_up: flip the switch up, move the lever up, raise the lever, push the switch upwards, toggle the switch up, lift the lever, flick the lever upward
lever_down: flip the switch down, move the lever down, lower the lever, pull the switch downwards, toggle the switch down, push the lever down, flick the lever downward
button: press the button, push the button, hit the button, tap the button, poke the button, press down on the knob, depress the key
pour: pour {x} into {k}, tip out {x}, empty {x} over {k}, fill {k} from {x}, decant {x}, spill {x}
wipe: wipe {s}, clean {s}, scrub {s}, dust {s}, mop {s}, polish {s}, rub {s} dry
give: hand me {x}, give me {x}, bring me {x}, pass {x} to me, deliver {x} to me, hand {x} over
throw: throw {x} away, toss {x}, discard {x}, fling {x}, hurl {x}, dispose of {x}, get rid of {x}
cut: cut {x}, slice {x}, chop {x}, carve {x}, split {x} with a knife
hang: hang {x} up, suspend {x}, hook {x} on the wall
fold: fold {x}, crease {x}, bend {x} over, roll {x} up
look: look at {x}, find {x}, locate {x}, search for {x}, where is {x}, show me {x}, point at {x}
wait: stop, halt, wait, freeze, do nothing, stay where you are, pause, hold still
go: go {d}, drive {d}, walk {d}, move your arm {d}, come {d}, back off {d}
""")  # noqa: E501

COLOURS = _split("""
red: red, crimson, scarlet, ruby, cherry red, vermilion, carmine, blood red, tomato coloured, brick red, cardinal red, reddish, rust red, fire engine red, strawberry coloured
blue: blue, azure, navy, cobalt, sapphire, sky blue, cerulean, indigo, bluish, royal blue, ultramarine, ocean blue, dark blue, light blue, turquoise blue, denim coloured, cornflower
pink: pink, rose, rosy, magenta, fuchsia, salmon pink, hot pink, pinkish, blush coloured, coral pink, bubblegum pink, rose coloured, flamingo coloured, mauve, pastel pink, peach coloured
green: green, emerald, lime, olive, mint green, greenish, jade, forest green
yellow: yellow, golden, lemon, amber, yellowish, mustard coloured, canary yellow
orange: orange, tangerine, pumpkin coloured, apricot
purple: purple, violet, lilac, lavender, plum coloured
black: black, dark, ebony, jet black, charcoal
white: white, pale, ivory, snow white, cream coloured
brown: brown, chestnut, hazel, chocolate coloured, tan
grey: grey, gray, silver, ash coloured
""")  # noqa: E501

THINGS = _split("""
block: block, cube, brick, box shaped block, wooden block, building block, chunk, piece, toy block, dice, square, lump, bit, rectangular block, slab, object, item, thing
ball: ball, sphere, marble, orb
cup: cup, mug, tumbler, goblet
bowl: bowl, basin, dish
bottle: bottle, flask, jar, vial
spoon: spoon, ladle, scoop
knife: knife, blade, cutter
book: book, notebook, volume, novel
pen: pen, pencil, marker, crayon
cloth: cloth, towel, rag, napkin
apple: apple, fruit, pear
banana: banana
shoe: shoe, boot, sneaker
phone: phone, mobile, telephone
bag: bag, sack, pouch
toy: toy, doll, teddy bear
tool: tool, hammer, wrench, screwdriver
can: can, tin
plate: plate, saucer, platter
sponge: sponge, brush
key: key, keys
paper: paper, sheet, letter, envelope
""")

HOLDERS = _split("""
drawer: drawer, desk drawer, pull out drawer, tray, pull out compartment, table drawer, sliding tray, chest of drawers, lower compartment
cabinet: cabinet, cupboard, sliding cabinet, slider, closet, shelf behind the sliding door, compartment behind the door, locker, sideboard, slider compartment, wardrobe, hutch, nook behind the slider, shelf, alcove
box: box, crate, carton, case, chest
basket: basket, hamper, bin
fridge: fridge, refrigerator, freezer
oven: oven, microwave, stove
bag: bag, backpack, suitcase
sink: sink, washbasin
pot: pot, pan, kettle
""")
DOORS = _split("""
sliding_door: sliding door, door, slider, cabinet door, cupboard door, door of the cabinet, sliding panel, panel, wooden panel, sliding shutter, gate, door of the cupboard, hatch, shutter, sliding barrier
window: window, window pane
curtain: curtain, blind, drape
""")
DEVICES = _split("""
bulb: light bulb, bulb, lightbulb, yellow light, yellow lamp, incandescent bulb, electric bulb, glass bulb, lamp with the switch, light of the lever, big lamp, globe, yellow bulb, lamp
led: led, led light, green light, green led, diode, light emitting diode, green lamp, indicator, indicator light, little green light, green diode, small light, signal light, lamp with the button, green signal, pilot light, status light
fan: fan, ventilator, blower
radio: radio, music, stereo, speaker
television: television, tv, screen, monitor
stove: stove, burner, hot plate
heater: heater, heating, radiator
tap: tap, faucet, water
computer: computer, machine, laptop, robot
""")
DIRECTIONS = _split("""
left: left, to the left, leftwards, leftward, towards the left, to the left side, to the left hand side, over to the left, further left, to your left, in the left direction, to its left, sideways to the left, to the far left, westward
right: right, to the right, rightwards, rightward, towards the right, to the right side, to the right hand side, over to the right, further right, to your right, in the right direction, to its right, sideways to the right, to the far right, eastward
up: up, upwards, upward, higher, to the top
down: down, downwards, downward, lower, to the bottom
forward: forward, forwards, ahead, to the front, towards me
back: back, backwards, backward, to the rear, away from me
""")  # noqa: E501
TURNS = _split("""
left: left, to the left, leftwards, counterclockwise, anticlockwise, counter clockwise, anti clockwise, against the clock, towards the left, in the counterclockwise direction, to the left side, widdershins, leftward
right: right, to the right, rightwards, clockwise, the way a clock runs, with the clock, towards the right, in the clockwise direction, to the right side, rightward
""")  # noqa: E501
SURFACES = _split("""
table: table, desk, tabletop, table top, surface, worktop, workbench, bench, counter, desktop, work surface, board
floor: floor, ground, carpet
chair: chair, sofa, bed, couch
""")

BEFORE = ["", "", "", "", "please ", "could you ", "can you ", "i want you to ", "now ", "would you ", "robot ", "go ", "go and ", "your task is to ", "i would like you to ", "try to ", "just ", "hey ", "you should ", "next ", "kindly ", "let us ", "carefully ", "time to ", "i need you to ", "would you mind helping to "]  # noqa: E501
AFTER = ["", "", "", "", "", " please", " now", " for me", " carefully", " slowly", " a bit", " all the way", " thanks", " right away", " with your gripper", " gently", " would you"]  # noqa: E501
NOT_A_COLOUR = ["", "", "", "", "small ", "big ", "nearest ", "other ", "little ", "wooden ", "same ", "large "]


def _thing(rng: random.Random, table: dict[str, list[str]], slot: str, meaning: Meaning, words: Sequence[str]) -> str:
    """A noun phrase for an entry of a table, perhaps with a colour, or for a word of the language at large."""
    entry = rng.choice(list(table)) if rng.random() > 0.45 else next(iter(table))
    noun = rng.choice(table[entry])
    if slot == "x" and rng.random() < 0.1:
        entry, noun = "other", rng.choice(words)
    meaning[slot] = entry
    article = rng.choice(["the ", "the ", "the ", "the ", "that ", "a ", "", "my "])
    if slot != "x" or rng.random() < 0.3:
        return article + (rng.choice(NOT_A_COLOUR) if slot in "xk" else "") + noun
    # The three colours of the desk in most cases, so that they are told apart best.
    colour = rng.choice(list(COLOURS)[:3] if rng.random() < 0.6 else list(COLOURS))
    meaning["colour"] = colour
    said = rng.choice(COLOURS[colour])
    form = rng.random()
    if form < 0.08:
        return f"{article}{noun} that is {said}"
    if form < 0.16:
        return f"{article}{said} one"
    return f"{article}{said} {noun}"


def make_sentence(rng: random.Random, words: Sequence[str]) -> tuple[str, Meaning]:
    """One sentence and what it means.

    Args:
        rng: Decides everything.
        words: Words of the language at large, a few of which are things.
    """
    # Half of the sentences are about the first thirteen actions, which are the hardest to tell apart.
    action = rng.choice(list(ACTIONS)[:13] if rng.random() < 0.85 else list(ACTIONS))
    phrase = rng.choice(ACTIONS[action])
    meaning: Meaning = {"action": action}
    if "{x}" in phrase:
        phrase = phrase.replace("{x}", _thing(rng, THINGS, "x", meaning, words))
    if "{y}" in phrase:
        other = ["another one", "the other one", "another block", "the other", "a second one", "the lower one"]
        phrase = phrase.replace("{y}", rng.choice([*other, _thing(rng, THINGS, "y", {}, words)]))
    for mark, table in (("k", HOLDERS), ("g", DOORS), ("v", DEVICES), ("s", SURFACES)):
        if f"{{{mark}}}" in phrase:
            if mark == "k" and action != "take_out" and rng.random() < 0.3:
                table = {name: table[name] for name in ("cabinet", "drawer")}
            said = _thing(rng, table, "place" if mark in "ks" else mark, meaning, words)
            phrase = phrase.replace(f"{{{mark}}}", said)
    if "{d}" in phrase:
        table = TURNS if action == "rotate" else DIRECTIONS
        meaning["direction"] = rng.choice(("left", "right") if rng.random() < 0.8 else tuple(table))
        phrase = phrase.replace("{d}", rng.choice(table[meaning["direction"]]))
    return f"{rng.choice(BEFORE)}{phrase}{rng.choice(AFTER)}", meaning
