import assert from 'node:assert/strict'
import { test } from 'node:test'
import { namesDigest, parseEntityTags } from '../../../shared/oci/entity-tags.ts'

test('entity tags name a digest quoted, bare, weakly, among others, or as any', () => {
  for (const header of ['"sha256:a"', 'sha256:a', 'W/"sha256:a"', '"x", "sha256:a"', '*', ' * ']) {
    assert.ok(namesDigest(parseEntityTags(header), 'sha256:a'), header)
  }
  for (const header of [undefined, '', '"sha256:b"', 'sha256:aa', '"sha256:a']) {
    assert.ok(!namesDigest(parseEntityTags(header), 'sha256:a'), header)
  }
})

test('nothing names what is not there', () => {
  for (const header of ['*', '"sha256:a"']) {
    assert.ok(!namesDigest(parseEntityTags(header), undefined))
  }
})
