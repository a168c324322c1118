import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { unifiedDiff } from '../../deploy/unified-diff.ts'

const lines = (...texts: readonly string[]) => texts.map((text) => `${text}\n`).join('')

test('what is the same has no difference', () => {
  assert.equal(unifiedDiff('f', 'a\nb', 'a\nb'), '')
})

test('a new file is one of which nothing was there', () => {
  assert.equal(
    unifiedDiff('/f', undefined, 'a\nb'),
    lines('--- /dev/null', '+++ /f', '@@ -0,0 +1,2 @@', '+a', '+b', '\\ No newline at end of file'),
  )
})

test('changes are shown with three lines around them, those that are near in one', () => {
  const before = [...'abcdefghijklmnopqrstu']
  const after = before
    .map((line) => ({ e: 'E', l: 'L' })[line] ?? line)
    .filter((line) => line !== 'u')
  assert.equal(
    unifiedDiff('f', lines(...before), lines(...after)),
    lines(
      ...['--- f', '+++ f', '@@ -2,14 +2,14 @@'],
      ...[' b', ' c', ' d', '-e', '+E', ' f', ' g', ' h', ' i', ' j', ' k', '-l', '+L'],
      ...[' m', ' n', ' o', '@@ -18,4 +18,3 @@', ' r', ' s', ' t', '-u'],
    ),
  )
})

test('applied to the old text it gives the new one', () => {
  const text = fc
    .array(fc.constantFrom('a', 'b', 'a,', ''), { maxLength: 40 })
    .map((each) => each.join('\n'))
  fc.assert(
    fc.property(text, text, (before, after) => {
      assert.equal(apply(unifiedDiff('f', before, after), before), after)
    }),
  )
})

/** What patch(1) does; each line that is not added must be where the hunk says. */
function apply(diff: string, before: string): string {
  const old = before.split(/(?<=\n)/).filter(Boolean)
  let text = ''
  let at = 0
  for (const hunk of diff.split(/^(?=@@ )/m).slice(1)) {
    const [, start = '', length = ''] = /^@@ -(\d+),(\d+) \+\d+,\d+ @@\n/.exec(hunk) ?? []
    const first = Number(start) - (length === '0' ? 0 : 1)
    text += old.slice(at, first).join('')
    at = first
    const rows = hunk.split(/(?<=\n)/).slice(1)
    rows.forEach((row, index) => {
      if (row.startsWith('\\')) return
      const isEnd = rows[index + 1]?.startsWith('\\') ?? false
      const line = isEnd ? row.slice(1, -1) : row.slice(1)
      if (!row.startsWith('+')) assert.equal(line, old[at++])
      if (!row.startsWith('-')) text += line
    })
    assert.equal(at, first + Number(length))
  }
  return text + old.slice(at).join('')
}
