import { ClientFileError } from './file-error.ts'
import { checkDefinitions } from './toml-definitions.ts'

/** What stands on one or more whole lines of a TOML document; all texts together are the document. */
export type TomlStatement = TomlTrivia | TomlTable | TomlPair

interface Lines {
  /** The lines with their ends; the document's last one is given one if it has none. */
  readonly text: string
  /** The number of the first line, from 1. */
  readonly line: number
}

/** A blank line or a comment. */
interface TomlTrivia extends Lines {
  readonly kind: 'trivia'
}

/** `[path]`, or `[[path]]` of an array. */
export interface TomlTable extends Lines {
  readonly kind: 'table'
  readonly path: readonly string[]
  readonly isArray: boolean
}

/** `key = value`. */
export interface TomlPair extends Lines {
  readonly kind: 'pair'
  readonly key: readonly string[]
  /** As it is written. */
  readonly value: string
}

/**
 * Splits a document into its statements and checks its grammar: what is kept of it later is kept as it is written.
 * @throws ClientFileError that names the line [TOML 1.0]
 */
export function parseToml(text: string): readonly TomlStatement[] {
  const statements: TomlStatement[] = []
  const reader = createReader(text)
  let line = 1
  while (!reader.isAtEnd()) {
    const statement = readStatement(reader, line)
    statements.push(statement)
    line += countLineEnds(statement.text)
  }
  checkDefinitions(statements)
  return statements
}

/** The text of a string that stands on one line; undefined when the value is something else. */
export function stringOf(value: string): string | undefined {
  if (/^'[^']*'$/.test(value)) return value.slice(1, -1)
  return /^"(?:[^"\\]|\\.)*"$/.test(value) ? unescape(value) : undefined
}

const unprintable = '\\u0000-\\u0008\\u000b-\\u001f\\u007f'
const escape = '\\\\(?:[btnfr"\\\\]|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})'
const digits = '\\d(?:_?\\d)*'
const time = '\\d\\d:\\d\\d:\\d\\d(?:\\.\\d+)?'

const sticky = (source: string): RegExp => new RegExp(source, 'y')

const blank = sticky('[ \\t]*')
const lineEnd = sticky('\\r?\\n|$')
const comment = sticky(`#[^${unprintable}\\n]*`)
/** Between the members of an array, where lines may end. */
const gap = sticky(`(?:[ \\t]|\\r?\\n|#[^${unprintable}\\n]*)*`)
const bareKey = sticky('[A-Za-z0-9_-]+')
const oneLineStrings = [
  sticky(`"(?:[^"\\\\${unprintable}\\n]|${escape})*"`),
  sticky(`'[^'${unprintable}\\n]*'`),
]
const multiLine = `\\r\\n|[^${unprintable}`
const scalars = [
  sticky(`"""(?:${multiLine}"\\\\]|${escape}|\\\\[ \\t]*\\r?\\n|"{1,2}(?!"))*"{3,5}`),
  sticky(`'''(?:${multiLine}']|'{1,2}(?!'))*'{3,5}`),
  ...oneLineStrings,
  ...[
    'true|false|[+-]?(?:inf|nan)',
    `\\d{4}-\\d\\d-\\d\\d(?:[Tt ]${time}(?:[Zz]|[+-]\\d\\d:\\d\\d)?)?`,
    time,
    '0x[0-9a-fA-F](?:_?[0-9a-fA-F])*|0o[0-7](?:_?[0-7])*|0b[01](?:_?[01])*',
    `[+-]?(?:0|[1-9](?:_?\\d)*)(?:\\.${digits})?(?:[eE][+-]?${digits})?`,
  ].map((each) => sticky(`(?:${each})(?=[\\s,\\]}#]|$)`)),
]

interface Reader {
  isAtEnd(): boolean
  position(): number
  /** What was read from the position on. */
  since(start: number): string
  /** What stands here, which is then read; undefined when it is something else. */
  take(pattern: RegExp): string | undefined
  /** As `take` of a word; whether it was there. */
  skip(word: string): boolean
  fail(missing: string): never
}

function createReader(source: string): Reader {
  let at = 0
  return {
    isAtEnd: () => at === source.length,
    position: () => at,
    since: (start) => source.slice(start, at),
    take(pattern) {
      pattern.lastIndex = at
      const [found] = pattern.exec(source) ?? []
      if (found !== undefined) at += found.length
      return found
    },
    skip(word) {
      const isThere = source.startsWith(word, at)
      if (isThere) at += word.length
      return isThere
    },
    fail(missing) {
      const line = countLineEnds(source.slice(0, at)) + 1
      throw new ClientFileError(`line ${line} is not TOML: ${missing} is missing there`)
    },
  }
}

function countLineEnds(text: string): number {
  return text.split('\n').length - 1
}

type Said =
  | { readonly kind: 'trivia' }
  | { readonly kind: 'table'; readonly path: readonly string[]; readonly isArray: boolean }
  | { readonly kind: 'pair'; readonly key: readonly string[]; readonly value: string }

function readStatement(reader: Reader, line: number): TomlStatement {
  const start = reader.position()
  reader.take(blank)
  const said = readSaid(reader)
  reader.take(blank)
  reader.take(comment)
  if (reader.take(lineEnd) === undefined) reader.fail('the end of the line')
  const lines = reader.since(start)
  return { ...said, text: lines.endsWith('\n') ? lines : `${lines}\n`, line }
}

function readSaid(reader: Reader): Said {
  if (reader.skip('[[')) return { kind: 'table', path: readPath(reader, ']]'), isArray: true }
  if (reader.skip('[')) return { kind: 'table', path: readPath(reader, ']'), isArray: false }
  const key = readKey(reader)
  if (key === undefined) return { kind: 'trivia' }
  expect(reader, '=')
  reader.take(blank)
  const start = reader.position()
  readValue(reader)
  return { kind: 'pair', key, value: reader.since(start) }
}

function readPath(reader: Reader, end: string): readonly string[] {
  reader.take(blank)
  const path = readKey(reader) ?? reader.fail('a name')
  expect(reader, end)
  return path
}

/** A key of one or more parts; undefined when there is none. */
function readKey(reader: Reader): readonly string[] | undefined {
  const first = readKeyPart(reader)
  if (first === undefined) return undefined
  const parts = [first]
  reader.take(blank)
  while (reader.skip('.')) {
    reader.take(blank)
    parts.push(readKeyPart(reader) ?? reader.fail('a name'))
    reader.take(blank)
  }
  return parts
}

function readKeyPart(reader: Reader): string | undefined {
  const quoted = takeFirst(reader, oneLineStrings)
  return quoted === undefined ? reader.take(bareKey) : stringOf(quoted)
}

function readValue(reader: Reader): void {
  if (reader.skip('[')) return readArray(reader)
  if (reader.skip('{')) return readInlineTable(reader)
  if (takeFirst(reader, scalars) === undefined) reader.fail('a value')
}

function readArray(reader: Reader): void {
  reader.take(gap)
  while (!reader.skip(']')) {
    readValue(reader)
    reader.take(gap)
    const hasMore = reader.skip(',')
    reader.take(gap)
    if (!hasMore) return expect(reader, ']')
  }
}

function readInlineTable(reader: Reader): void {
  reader.take(blank)
  if (reader.skip('}')) return
  do {
    reader.take(blank)
    if (readKey(reader) === undefined) reader.fail('a name')
    expect(reader, '=')
    reader.take(blank)
    readValue(reader)
    reader.take(blank)
  } while (reader.skip(','))
  expect(reader, '}')
}

function expect(reader: Reader, word: string): void {
  if (!reader.skip(word)) reader.fail(word)
}

function takeFirst(reader: Reader, patterns: readonly RegExp[]): string | undefined {
  for (const pattern of patterns) {
    const found = reader.take(pattern)
    if (found !== undefined) return found
  }
  return undefined
}

const shortEscapes: Readonly<Record<string, string>> = {
  b: '\b',
  t: '\t',
  n: '\n',
  f: '\f',
  r: '\r',
}

function unescape(quoted: string): string {
  return quoted
    .slice(1, -1)
    .replace(/\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))/g, (_, short, long, character) => {
      const code: unknown = short ?? long
      if (typeof code === 'string') return characterOf(Number.parseInt(code, 16))
      return shortEscapes[String(character)] ?? String(character)
    })
}

function characterOf(code: number): string {
  // A surrogate or a number beyond Unicode is an error in TOML; here it only must not equal anything of ours.
  return code > 0x10ffff ? '\ufffd' : String.fromCodePoint(code)
}
