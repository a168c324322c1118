import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLabelName } from '../../../primary/catalog/labels.ts'

test('a label has a name that people can read, of at most 128 characters', () => {
  const names = ['a', 'prod', 'Needs review', 'größe: 10 %', '発布済み', '🚀', 'x'.repeat(128)]
  for (const name of names) assert.ok(isLabelName(name), name)
  const others = ['', ' ', '\t', '　', 'x'.repeat(129), 'a\nb', 'a\u0000', '\u007f', 'a\u0085b']
  for (const name of others) assert.ok(!isLabelName(name), JSON.stringify(name))
})
