import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { parseToml, stringOf } from '../../../shared/clients/toml-statements.ts'
import { tomlString } from '../../../shared/clients/toml.ts'

const document = `# at the top
title = "a # b" # behind

[owner]
  name = 'C:\\dir'   # literal
  "quoted key" = 1
  a . b = 2

["x.y" . z]
numbers = [
  1, # one
  0x1F, -3.5e+2,

  inf, ]
text = """
[not a table]
a = "b" \\
  ""quoted""\\t"""
raw = '''
# no comment ''
'''
when = 1979-05-27T07:32:00Z
day = 1979-05-27
inline = { a = 1, b.c = [ {} , { d = "}" } ] }
empty = ""

[[list]]
[[list]]
  [list.below]
on = true
`

describe('a document', () => {
  test('is its statements, each with whole lines, the keys and the value as written', () => {
    const statements = parseToml(document)
    assert.equal(statements.map(({ text }) => text).join(''), document)
    const said = statements.flatMap((each): object[] => {
      if (each.kind === 'table') return [{ table: each.path, isArray: each.isArray }]
      return each.kind === 'pair' ? [{ key: each.key.join('|'), value: each.value }] : []
    })
    assert.deepEqual(said.slice(0, 7), [
      { key: 'title', value: '"a # b"' },
      { table: ['owner'], isArray: false },
      { key: 'name', value: "'C:\\dir'" },
      { key: 'quoted key', value: '1' },
      { key: 'a|b', value: '2' },
      { table: ['x.y', 'z'], isArray: false },
      { key: 'numbers', value: '[\n  1, # one\n  0x1F, -3.5e+2,\n\n  inf, ]' },
    ])
    assert.deepEqual(said.slice(-4), [
      { table: ['list'], isArray: true },
      { table: ['list'], isArray: true },
      { table: ['list', 'below'], isArray: false },
      { key: 'on', value: 'true' },
    ])
    const lineOfList = document.split('\n').indexOf('[[list]]') + 1
    assert.equal(statements.find((each) => each.kind === 'table' && each.isArray)?.line, lineOfList)
  })

  test('may have lines that end as on Windows, and a last one without an end', () => {
    const statements = parseToml('a = 1\r\n\r\n[t]\r\nb = """x\r\ny"""')
    assert.deepEqual(
      statements.map(({ text, line }) => [text, line]),
      [
        ['a = 1\r\n', 1],
        ['\r\n', 2],
        ['[t]\r\n', 3],
        ['b = """x\r\ny"""\n', 4],
      ],
    )
    assert.deepEqual(parseToml(''), [])
  })
})

for (const [text, message] of [
  ['a', /^line 1 is not TOML: = is missing/],
  ['\n\na = ', /^line 3 .* a value is missing/],
  ['a = 1 b = 2', /^line 1 .* the end of the line/],
  ['a = "b\nc"', /^line 1 .* a value/],
  ['a = "b', /a value/],
  ['a = "\\q"', /a value/],
  ['a = """b""', /the end of the line/],
  ['a = 01', /a value/],
  ['a = yes', /a value/],
  ['a = [1 2]', /\] is missing/],
  ['a = [1,\n2', /^line 2 .*\] is missing/],
  ['a = {b = 1,}', /a name/],
  ['a = {b = 1\n}', /\} is missing/],
  ['[a', /\] is missing/],
  ['[]', /a name/],
  ['[[a]', /\]\] is missing/],
  ['[a] b = 1', /the end of the line/],
  ['= 1', /the end of the line/],
  ['a. = 1', /a name/],
  ['a = "\u0001"', /a value/],
  ['# \u0000', /the end of the line/],
] as const) {
  test(`${JSON.stringify(text)} is refused by its line`, () => {
    assert.throws(
      () => parseToml(text),
      (error) => error instanceof ClientFileError && message.test(error.message),
    )
  })
}

test('the text of a string is known, whatever its quotes', () => {
  assert.equal(stringOf("'a\\b'"), 'a\\b')
  assert.equal(stringOf('"a\\"\\u00fc\\U0001F600\\t\\\\"'), 'a"ü😀\t\\')
  for (const other of ['1', '["a"]', '"""a"""', "'''a'''", '"a" + "b"']) {
    assert.equal(stringOf(other), undefined)
  }
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(stringOf(tomlString(text)), text.toWellFormed())
      const [table] = parseToml(`[${tomlString(text)}]\n`)
      assert.deepEqual(table?.kind === 'table' && table.path, [text.toWellFormed()])
    }),
  )
})
