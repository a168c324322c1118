import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { parseToml } from '../../../shared/clients/toml-statements.ts'

for (const [text, message] of [
  ['a = 1\na = 2', /^line 2 defines a a second time/],
  ['[a]\n[a]', /^line 2 defines a a second time/],
  ['[a]\nb = 1\n[a.b]', /^line 3 defines a\.b a second time/],
  ['[a]\nb = 1\n[a.b.c]', /^line 3/],
  ['[a]\nb.c = 1\n[a.b]', /^line 3/],
  ['[a.b]\n[a]\nb.c = 1', /^line 3/],
  ['a.b = 1\na = 1', /^line 2/],
  ['a = []\n[[a]]', /^line 2/],
  ['[[a]]\n[a]', /^line 2/],
  ['[a.b]\n[[a]]', /^line 2/],
] as const) {
  test(`${JSON.stringify(text)} defines something twice`, () => {
    assert.throws(
      () => parseToml(text),
      (error) => error instanceof ClientFileError && message.test(error.message),
    )
  })
}

test('tables may come in any order, and each element of an array has its own', () => {
  parseToml('[a.b]\n[a]\nc = 1\n[a.d]\n[[e]]\nf = 1\n[e.g]\n[[e]]\nf = 1\n[e.g]\n')
})
