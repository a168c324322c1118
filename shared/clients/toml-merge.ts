import { ClientFileError } from './file-error.ts'
import { parseToml, type TomlStatement, type TomlTable } from './toml-statements.ts'

const beginMark = '# >>> outport hosts'
const endMark = '# <<< outport hosts'
const begin = `${beginMark}: written anew by each run; what is added to these tables stays`

export interface TomlMerge {
  /** The file as it is; empty when there is none. */
  readonly existing: string
  /** What is to stand in it, as a writer made it. */
  readonly ours: string
  /** Keys that are ours in each table of ours: what others gave them goes. */
  readonly keys: readonly string[]
  /** Those of them that are not dropped silently where others gave one and ours has none, but refused. */
  readonly precious?: readonly string[]
  /** Keys before the first table for which the value of others wins. */
  readonly yielding?: readonly string[]
  /** Before the tables of others, where order matters; else behind them, or where it was. */
  readonly place: 'first' | 'last'
  /** What tells the tables of one array apart. */
  readonly nameOf?: (table: TomlSection) => string | undefined
}

/** A table and what stands in it. Without a header: what stands before the first one, or behind our last line. */
export interface TomlSection {
  readonly header: TomlTable | undefined
  /** The comment right above the header. */
  readonly lead: readonly TomlStatement[]
  readonly body: TomlStatement[]
  /** Whether it stands between our marks. */
  readonly isOurs: boolean
}

/**
 * Puts tables between two marks into a file of others. A table of others that has the name of one of ours is taken
 * over: its further keys, its comments and the tables below it stay, with ours. What stood between the marks and is not
 * wanted any more goes; all else stays as it is written.
 * @returns the file's text, which is the same when nothing is to change
 * @throws ClientFileError when the file is not TOML, or has what is ours in a form that cannot be taken over
 */
export function mergeToml(merge: TomlMerge): string {
  const [root, ...sections] = splitSections(merge.existing)
  const [ourRoot, ...ourSections] = splitSections(merge.ours)
  const groups = groupSections(ourSections, merge)
  const { others, blockAt } = takeOver(sections, groups, merge)
  const oldRoot = sections.filter(({ header, isOurs }) => isOurs && header === undefined)
  const roots = mergeRoots({ root, ourRoot, oldRoot }, merge)
  const at = merge.place === 'first' ? 0 : blockAt
  const before = trimEnd(roots.others + others.slice(0, at).map(formatSection).join(''))
  const block = joinParagraphs([roots.ours, ...groups.map((group) => formatGroup(group, merge))])
  const after = trimStart(others.slice(at).map(formatSection).join(''))
  const text = [before, `${begin}\n${block}${endMark}\n`, after].filter(Boolean).join('\n')
  checkResult(text)
  return text
}

function checkResult(text: string): void {
  try {
    parseToml(text)
  } catch (cause) {
    if (!(cause instanceof ClientFileError)) throw cause
    throw new ClientFileError(
      `what is to be written stands there in another form than a table with a [header] of its own, which cannot be taken over: with it, ${cause.message}`,
      { cause },
    )
  }
}

function splitSections(text: string): readonly [TomlSection, ...TomlSection[]] {
  const root = createSection(undefined, false)
  const sections: [TomlSection, ...TomlSection[]] = [root]
  let current = root
  let isOurs = false
  let hasTables = false
  const open = (section: TomlSection) => {
    sections.push(section)
    current = section
  }
  for (const statement of parseToml(text)) {
    if (isMark(statement)) {
      if (isMark(statement, beginMark) === isOurs) throw misplaced(statement)
      isOurs = !isOurs
      // What follows our tables belongs to others; before any table it is the document's.
      if (isOurs || hasTables) open(createSection(undefined, isOurs))
      else current = root
    } else if (statement.kind === 'table') {
      hasTables = true
      open({ ...createSection(statement, isOurs), lead: takeComments(current.body) })
    } else {
      const isBehind = current.header === undefined && hasTables
      if (statement.kind === 'pair' && isBehind) throw misplaced(statement)
      current.body.push(statement)
    }
  }
  if (isOurs) throw new ClientFileError(`the line '${endMark}' is missing`)
  return sections
}

function createSection(header: TomlTable | undefined, isOurs: boolean): TomlSection {
  return { header, lead: [], body: [], isOurs }
}

function isMark({ kind, text }: TomlStatement, mark?: string): boolean {
  if (kind !== 'trivia') return false
  return mark === undefined
    ? text.startsWith(beginMark) || text.startsWith(endMark)
    : text.startsWith(mark)
}

function misplaced({ line }: TomlStatement): ClientFileError {
  return new ClientFileError(
    `line ${line} is misplaced: outport's own lines begin with '${beginMark}' and end with '${endMark}', and keys stand right below the header of their table`,
  )
}

/** Takes the comment off the end of a table that stands right above the next one's header. */
function takeComments(body: TomlStatement[]): readonly TomlStatement[] {
  const isComment = ({ kind, text }: TomlStatement) => kind === 'trivia' && text.trim() !== ''
  return body.splice(body.findLastIndex((statement) => !isComment(statement)) + 1)
}

/** One of our tables, the tables below it, and what was there in its place. */
interface Group {
  readonly key: string
  readonly leader: TomlSection
  readonly members: TomlSection[]
  readonly theirLeaders: TomlSection[]
  readonly theirMembers: TomlSection[]
}

function groupSections(sections: readonly TomlSection[], merge: TomlMerge): readonly Group[] {
  const groups: Group[] = []
  for (const section of sections) {
    const last = groups.at(-1)
    if (last !== undefined && isBelow(section, last.leader)) {
      last.members.push(section)
    } else {
      const key = keyOf(section, merge)
      groups.push({ key, leader: section, members: [], theirLeaders: [], theirMembers: [] })
    }
  }
  return groups
}

/** Moves what is there already to its group. @returns the rest, and where among it our block stood */
function takeOver(
  sections: readonly TomlSection[],
  groups: readonly Group[],
  merge: TomlMerge,
): { readonly others: readonly TomlSection[]; readonly blockAt: number } {
  const byKey = new Map(groups.map((group) => [group.key, group]))
  const others: TomlSection[] = []
  let blockAt: number | undefined
  let current: Group | undefined
  for (const section of sections) {
    if (section.isOurs) blockAt ??= others.length
    const group = section.header && byKey.get(keyOf(section, merge))
    if (group !== undefined) {
      current = group
      group.theirLeaders.push(section)
    } else if (current !== undefined && isBelow(section, current.leader)) {
      current.theirMembers.push(section)
    } else {
      current = undefined
      if (!section.isOurs) others.push(section)
    }
  }
  return { others, blockAt: blockAt ?? others.length }
}

function keyOf(section: TomlSection, { nameOf }: TomlMerge): string {
  const { header } = section
  return JSON.stringify([header?.path, header?.isArray, header?.isArray && nameOf?.(section)])
}

function isBelow({ header }: TomlSection, leader: TomlSection): boolean {
  const above = leader.header?.path ?? []
  const path = header?.path ?? []
  return path.length > above.length && above.every((name, index) => name === path[index])
}

function formatGroup(group: Group, merge: TomlMerge): string {
  const { leader, members, theirLeaders, theirMembers } = group
  for (const section of theirLeaders) refusePrecious(section, leader, merge)
  const written = new Set(members.map(pathOf))
  const isReplaced = (section: TomlSection) => written.has(pathOf(section))
  const further = [
    ...theirLeaders.flatMap(({ body }) => withoutKeys(body, merge.keys)),
    // A comment at the end of the table reads as one about the next.
    ...theirMembers.filter(isReplaced).flatMap(({ lead }) => lead),
  ]
  return [
    formatStatements(theirLeaders.flatMap(({ lead }) => lead)),
    trimEnd(formatSection(leader)),
    trimEnd(trimStart(formatStatements(further))),
    ...members.map(formatSection),
    ...theirMembers.filter((section) => !isReplaced(section)).map(formatSection),
  ].join('')
}

function pathOf({ header }: TomlSection): string {
  return JSON.stringify(header?.path)
}

function refusePrecious(section: TomlSection, leader: TomlSection, merge: TomlMerge): void {
  if (section.isOurs) return
  const given = keysIn(leader.body)
  const lost = section.body.find(
    (statement) =>
      statement.kind === 'pair' &&
      merge.precious?.includes(statement.key[0] ?? '') &&
      !given.includes(statement.key[0] ?? ''),
  )
  if (lost?.kind !== 'pair') return
  throw new ClientFileError(
    `line ${lost.line} gives ${section.header?.path.at(-1)} a ${lost.key[0]} of its own: give it on the command line too, or remove the line`,
  )
}

interface Roots {
  readonly root: TomlSection
  readonly ourRoot: TomlSection
  readonly oldRoot: readonly TomlSection[]
}

/** Keys before the first table: there is one place for each. */
function mergeRoots(
  { root, ourRoot, oldRoot }: Roots,
  { keys, yielding = [] }: TomlMerge,
): { readonly others: string; readonly ours: string } {
  const theirs = keysIn(root.body)
  const yielded = yielding.filter((key) => theirs.includes(key))
  const ours = withoutKeys(ourRoot.body, yielded)
  const old = withoutKeys(
    oldRoot.flatMap(({ body }) => body),
    keys,
  )
  return {
    others: formatStatements(withoutKeys(root.body, keysIn(ours))),
    ours: trimEnd(formatStatements(ours)) + trimStart(formatStatements(old)),
  }
}

function keysIn(body: readonly TomlStatement[]): readonly string[] {
  return body.flatMap((statement) => (statement.kind === 'pair' ? statement.key.slice(0, 1) : []))
}

function withoutKeys(
  body: readonly TomlStatement[],
  keys: readonly string[],
): readonly TomlStatement[] {
  return body.filter(
    (statement) => statement.kind !== 'pair' || !keys.includes(statement.key[0] ?? ''),
  )
}

function formatSection({ lead, header, body }: TomlSection): string {
  return formatStatements([...lead, ...(header === undefined ? [] : [header]), ...body])
}

function formatStatements(statements: readonly TomlStatement[]): string {
  return statements.map(({ text }) => text).join('')
}

function joinParagraphs(texts: readonly string[]): string {
  return texts
    .map((text) => trimEnd(trimStart(text)))
    .filter(Boolean)
    .join('\n')
}

/** Without the blank lines at its start. */
function trimStart(text: string): string {
  return text.replace(/^(?:[ \t]*\r?\n)+/, '')
}

/** Without the blank lines at its end; the last line keeps its own. */
function trimEnd(text: string): string {
  return text.trim() === '' ? '' : `${text.trimEnd()}\n`
}
