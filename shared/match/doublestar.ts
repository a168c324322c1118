/** A pattern of Go's doublestar that has been read. Made by `parsePattern` alone. */
export interface Pattern {
  readonly nodes: readonly Node[]
  /** Where a name starts, among `nodes`. */
  readonly first: number
}

/** One step of a pattern; `next` is where it leads, among the pattern's nodes. */
type Node =
  | { readonly kind: 'literal'; readonly char: string; readonly next: number }
  /** `?`: a character that is no slash. */
  | { readonly kind: 'any'; readonly next: number }
  | { readonly kind: 'star'; readonly next: number }
  | (CharacterClass & { readonly next: number })
  /** The starts of alternatives. */
  | { readonly kind: 'branch'; readonly to: readonly number[] }
  | { readonly kind: 'end' }

interface CharacterClass {
  readonly kind: 'class'
  readonly negated: boolean
  readonly ranges: readonly Range[]
}

/** Code points, both inclusive. */
interface Range {
  readonly low: number
  readonly high: number
}

/** A node as it is read, before it is known what comes after it. */
type Term =
  | { readonly kind: 'literal'; readonly char: string }
  | { readonly kind: 'any' }
  | { readonly kind: 'star' }
  | CharacterClass
  | { readonly kind: 'alternatives'; readonly of: readonly (readonly Term[])[] }

/** The longest pattern, in UTF-16 units: matching takes steps by its length times the name's. */
const maxLength = 1024

/**
 * Reads a pattern as Go's doublestar v4 does: `*` any characters but `/`, `?` one of them, `**` between slashes (or an
 * end) any number of path segments, `[a-z]` and `[!a-z]` or `[^a-z]` one character of a class, `{a,b}` alternatives,
 * which may hold all of these, and `\` before a character takes it as it is. `a/**` matches `a` too.
 * What doublestar itself takes for nothing only in some patterns is nothing in all: `a*{,b}` matches `a`, as `a*` does.
 * [bmatcuk/doublestar v4 match.go]
 * @throws RangeError that says what is malformed, and where
 */
export function parsePattern(text: string): Pattern {
  if (text.length > maxLength)
    throw new RangeError(`the pattern has more than ${maxLength} characters`)
  const nodes: Node[] = [{ kind: 'end' }]
  const first = link(readPattern(text), endNode, nodes)
  return { nodes, first }
}

/**
 * Whether the whole of a name matches. All ways through the pattern are followed at once, so that no pattern takes
 * more than its length times the name's.
 */
export function matches({ nodes, first }: Pattern, name: string): boolean {
  let states = new Set<number>()
  enter(nodes, stateOf(first, 'start'), states)
  for (const char of name) {
    if (states.has(stateOf(endNode, 'second star'))) return true
    const after = new Set<number>()
    for (const state of states) step(nodes, state, { char, into: after })
    if (after.size === 0) return false
    states = after
  }
  return endModes.some((ending) => states.has(stateOf(endNode, ending)))
}

// Reading

interface Reader {
  /** By code points, as Go's runes. */
  readonly chars: readonly string[]
  position: number
}

function readPattern(text: string): readonly Term[] {
  const reader: Reader = { chars: [...text], position: 0 }
  const terms = readTerms(reader, '')
  if (reader.position < reader.chars.length)
    throw malformed('a } closes nothing (write \\} for the character)', reader.position)
  return terms
}

/** Reads up to a character that ends the sequence, or to a `}`. */
function readTerms(reader: Reader, ends: string): readonly Term[] {
  const terms: Term[] = []
  for (;;) {
    const char = reader.chars[reader.position]
    if (char === undefined || char === '}' || ends.includes(char)) return terms
    terms.push(readTerm(reader, char))
  }
}

function readTerm(reader: Reader, char: string): Term {
  switch (char) {
    case '*':
      reader.position++
      return { kind: 'star' }
    case '?':
      reader.position++
      return { kind: 'any' }
    case '[':
      return readClass(reader)
    case '{':
      return readAlternatives(reader)
    default:
      return { kind: 'literal', char: readChar(reader) }
  }
}

/** One character that stands for itself, or after a backslash. */
function readChar(reader: Reader): string {
  const start = reader.position
  if (reader.chars[reader.position] === '\\') reader.position++
  const char = reader.chars[reader.position++]
  if (char === undefined)
    throw malformed('nothing follows a \\ (write \\\\ for the character)', start)
  return char
}

function readAlternatives(reader: Reader): Term {
  const start = reader.position
  const of: (readonly Term[])[] = []
  do {
    reader.position++
    of.push(readTerms(reader, ','))
  } while (reader.chars[reader.position] === ',')
  if (reader.chars[reader.position] === undefined)
    throw malformed('a { is never closed (write \\{ for the character)', start)
  reader.position++
  return { kind: 'alternatives', of }
}

function readClass(reader: Reader): Term {
  const start = reader.position++
  const sign = reader.chars[reader.position] ?? ''
  const negated = sign === '!' || sign === '^'
  if (negated) reader.position++
  const ranges: Range[] = []
  while (reader.chars[reader.position] !== ']') {
    if (reader.chars[reader.position] === undefined)
      throw malformed('a [ is never closed (write \\[ for the character)', start)
    ranges.push(...readRange(reader))
  }
  reader.position++
  if (ranges.length === 0) throw malformed('a class is empty (write \\] for a ] in it)', start)
  return { kind: 'class', negated, ranges }
}

/** `a` or `a-z`; a `-` at an end of the class stands for itself. In `z-a` nothing lies between, but `z` is meant. */
function readRange(reader: Reader): readonly Range[] {
  const low = codePointOf(readChar(reader))
  const only = { low, high: low }
  const afterDash = reader.chars[reader.position + 1]
  if (reader.chars[reader.position] !== '-' || afterDash === ']' || afterDash === undefined)
    return [only]
  reader.position++
  return [only, { low, high: codePointOf(readChar(reader)) }]
}

function malformed(what: string, position: number): RangeError {
  return new RangeError(`${what}, at character ${position + 1} of the pattern`)
}

/** Makes the nodes of a sequence that leads to `next`, and returns its first. */
function link(terms: readonly Term[], next: number, nodes: Node[]): number {
  return terms.reduceRight((after, term) => {
    const node: Node =
      term.kind === 'alternatives'
        ? { kind: 'branch', to: term.of.map((alternative) => link(alternative, after, nodes)) }
        : { ...term, next: after }
    return nodes.push(node) - 1
  }, next)
}

// Matching

/**
 * How a node was come to. `**` is one thing only where a segment starts, and only if a slash or the end follows, and
 * each of these may stand on another side of a brace: so whether it is one is tried, beside its being two stars.
 */
type Mode =
  /** A segment of the pattern starts here. */
  | 'start'
  | 'within'
  /** Behind the first star, and behind both, of what must turn out to be a `**`. */
  | 'first star'
  | 'second star'
  /** In a star, or at the slash behind a `**`: what it matches goes on. */
  | 'inside'
  /** The name is at its end, and what is left must turn out to be `/**`, perhaps with a slash: behind each of these. */
  | 'tail slash'
  | 'tail first star'
  | 'tail second star'
  | 'tail last slash'

const modes: readonly Mode[] = [
  'start',
  'within',
  'first star',
  'second star',
  'inside',
  'tail slash',
  'tail first star',
  'tail second star',
  'tail last slash',
]

const endNode = 0
/** In which the end of the pattern may be come to, at the end of the name. */
const endModes: readonly Mode[] = [
  'start',
  'within',
  'second star',
  'tail second star',
  'tail last slash',
]

interface Move {
  readonly to: 'here' | 'next'
  readonly mode: Mode
}

/** What a star and a slash lead to without a character of the name. */
const moves: Readonly<Record<'star' | 'slash', Readonly<Partial<Record<Mode, readonly Move[]>>>>> =
  {
    star: {
      start: [
        { to: 'here', mode: 'inside' },
        { to: 'next', mode: 'first star' },
      ],
      within: [{ to: 'here', mode: 'inside' }],
      'first star': [{ to: 'next', mode: 'second star' }],
      inside: [{ to: 'next', mode: 'within' }],
      'tail slash': [{ to: 'next', mode: 'tail first star' }],
      'tail first star': [{ to: 'next', mode: 'tail second star' }],
    },
    slash: {
      start: [{ to: 'next', mode: 'tail slash' }],
      within: [{ to: 'next', mode: 'tail slash' }],
      'second star': [
        { to: 'here', mode: 'inside' },
        { to: 'next', mode: 'start' },
      ],
      'tail second star': [{ to: 'next', mode: 'tail last slash' }],
    },
  }

/** A node and how it was come to, as one number: they are kept in sets. */
function stateOf(node: number, mode: Mode): number {
  return node * modes.length + modes.indexOf(mode)
}

/** Adds a state, and all that it leads to without a character. */
function enter(nodes: readonly Node[], state: number, into: Set<number>): void {
  if (into.has(state)) return
  into.add(state)
  const { index, node, mode } = readState(nodes, state)
  if (node.kind === 'branch') {
    for (const next of node.to) enter(nodes, stateOf(next, mode), into)
  } else if (node.kind === 'star' || isSlash(node)) {
    for (const move of moves[node.kind === 'star' ? 'star' : 'slash'][mode] ?? [])
      enter(nodes, stateOf(move.to === 'here' ? index : node.next, move.mode), into)
  }
}

interface Step {
  readonly char: string
  readonly into: Set<number>
}

/** Adds what a state leads to by one character of the name. */
function step(nodes: readonly Node[], state: number, { char, into }: Step): void {
  const { node, mode } = readState(nodes, state)
  if (node.kind === 'branch' || node.kind === 'end') return
  if (mode === 'inside') {
    if (node.kind !== 'star' || char !== '/') enter(nodes, state, into)
    if (node.kind !== 'star' && char === '/') enter(nodes, stateOf(node.next, 'start'), into)
  } else if ((mode === 'start' || mode === 'within') && takes(node, char)) {
    enter(nodes, stateOf(node.next, isSlash(node) ? 'start' : 'within'), into)
  }
}

function readState(nodes: readonly Node[], state: number) {
  const index = Math.floor(state / modes.length)
  return {
    index,
    node: nodes[index] ?? { kind: 'end' as const },
    mode: modes[state % modes.length] ?? 'within',
  }
}

function isSlash(node: Node): node is Node & { readonly kind: 'literal' } {
  return node.kind === 'literal' && node.char === '/'
}

/** Whether a node is a character that the name's may be. */
function takes(node: Node, char: string): boolean {
  switch (node.kind) {
    case 'literal':
      return node.char === char
    case 'any':
      return char !== '/'
    case 'class': {
      const point = codePointOf(char)
      return node.ranges.some(({ low, high }) => low <= point && point <= high) !== node.negated
    }
    default:
      return false
  }
}

function codePointOf(char: string): number {
  return char.codePointAt(0) ?? 0
}
