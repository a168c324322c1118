import { diff } from 'node:util'

/** Lines of the file that are shown around each change. */
const contextLines = 3

type Mark = ' ' | '-' | '+'

interface DiffLine {
  readonly mark: Mark
  readonly text: string
  /** Which line it is of the old and of the new text, from 1: where it stands, or would. */
  readonly before: number
  readonly after: number
}

/**
 * The change of a file as `diff -u` shows it; empty when there is none.
 * @param before undefined when there is no file yet
 */
export function unifiedDiff(path: string, before: string | undefined, after: string): string {
  if ((before ?? '') === after) return ''
  const lines = diffLines(splitLines(before ?? ''), splitLines(after))
  const hunks = splitHunks(lines)
  const old = before === undefined ? '/dev/null' : path
  return `--- ${old}\n+++ ${path}\n${hunks.map(formatHunk).join('')}`
}

function splitLines(text: string): string[] {
  return text.split(/(?<=\n)/).filter(Boolean)
}

function diffLines(before: readonly string[], after: readonly string[]): readonly DiffLine[] {
  const marks: Readonly<Record<string, Mark>> = { '1': '-', '0': ' ', '-1': '+' }
  const at = { before: 1, after: 1 }
  return diff(before, after).map(([operation, text]) => {
    const mark = marks[operation] ?? ' '
    const line = { mark, text, ...at }
    if (mark !== '+') at.before++
    if (mark !== '-') at.after++
    return line
  })
}

/** Changes with the lines around them; those that would touch are one. */
function splitHunks(lines: readonly DiffLine[]): readonly (readonly DiffLine[])[] {
  const hunks: DiffLine[][] = []
  let end = 0
  lines.forEach(({ mark }, index) => {
    if (mark === ' ') return
    const start = Math.max(end, index - contextLines)
    const last = hunks.at(-1)
    const isApart = last === undefined || index - contextLines > end
    const hunk = isApart ? [] : last
    if (isApart) hunks.push(hunk)
    const next = Math.min(lines.length, index + contextLines + 1)
    hunk.push(...lines.slice(start, next))
    end = next
  })
  return hunks
}

function formatHunk(lines: readonly DiffLine[]): string {
  const [first] = lines
  const count = (other: Mark) => lines.filter(({ mark }) => mark !== other).length
  // An empty range is named by the line before it.
  const range = (start = 1, length = 0) => `${length === 0 ? start - 1 : start},${length}`
  const old = range(first?.before, count('+'))
  const fresh = range(first?.after, count('-'))
  return `@@ -${old} +${fresh} @@\n${lines.map(formatLine).join('')}`
}

function formatLine({ mark, text }: DiffLine): string {
  return text.endsWith('\n') ? `${mark}${text}` : `${mark}${text}\n\\ No newline at end of file\n`
}
