import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../../shared/oci/digest.ts'
import {
  formatReference,
  isRepositoryName,
  parseReference,
  parseRepositoryName,
  projectOf,
} from '../../../shared/oci/reference.ts'

const component = fc.stringMatching(/^[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}$/)
const name = fc.array(component, { minLength: 1, maxLength: 6 }).map((parts) => parts.join('/'))

test('every name of the grammar up to 255 characters is accepted, and its project is its first component', () => {
  fc.assert(
    fc.property(name, (text) => {
      assert.equal(isRepositoryName(text), text.length <= 255)
      if (text.length <= 255) assert.equal(projectOf(parseRepositoryName(text)), text.split('/')[0])
    }),
  )
})

test('names with upper case, empty or dotted components, or more than 255 characters are NAME_INVALID', () => {
  for (const text of [
    '',
    'A/b',
    'a//b',
    '/a',
    'a/',
    'a/../b',
    './a',
    'a b',
    'a..b',
    '_a',
    'a_',
    'a/_catalog',
    'ä',
    'a\n',
    'a'.repeat(256),
  ]) {
    assert.throws(() => parseRepositoryName(text), { code: 'NAME_INVALID' }, text)
  }
  assert.equal(isRepositoryName('a'.repeat(255)), true)
})

test('hostile names are refused in linear time', () => {
  const started = performance.now()
  for (const text of [
    'a'.repeat(60_000) + '!',
    'a-'.repeat(30_000),
    'a/'.repeat(30_000),
    '_'.repeat(60_000),
  ]) {
    assert.equal(isRepositoryName(text), false)
  }
  // The length is looked at first: this is a bound against a mistake of thousands, no timing test.
  assert.ok(performance.now() - started < 1000)
})

test('a reference is a digest or a tag of at most 128 characters, and prints as it was read', () => {
  const texts = fc.oneof(
    fc.stringMatching(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/),
    fc.constant(digestOf(Buffer.from('x'), 'sha512')),
  )
  fc.assert(
    fc.property(texts, (text) => {
      const reference = parseReference(text)
      assert.ok(reference)
      assert.equal(formatReference(reference), text)
      assert.equal(reference.kind, text.includes(':') ? 'digest' : 'tag')
    }),
  )
  for (const text of ['', '.bad', '-bad', 'a'.repeat(129), 'a:b', 'sha256:bad', 'a/b', 'a b']) {
    assert.equal(parseReference(text), undefined, text)
  }
})
