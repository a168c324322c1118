import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../../shared/oci/digest.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import {
  blobPath,
  manifestPath,
  parseOciPath,
  parseOciUrl,
  referrersPath,
  tagsPath,
  uploadPath,
} from '../../../shared/oci/paths.ts'
import { parseReference, parseRepositoryName } from '../../../shared/oci/reference.ts'

const digest = digestOf(Buffer.from('content'))
const word = fc.constantFrom(
  'a',
  'blobs',
  'manifests',
  'tags',
  'uploads',
  'referrers',
  'list',
  'v2',
  'x.y-z',
)
const repository = fc
  .array(word, { minLength: 1, maxLength: 5 })
  .map((words) => parseRepositoryName(words.join('/')))

test('every path that is printed is read back, whatever words its repository is made of', () => {
  fc.assert(
    fc.property(repository, (name) => {
      const reference = parseReference('latest')
      assert.ok(reference)
      assert.deepEqual(parseOciPath(blobPath(name, digest)), {
        kind: 'blob',
        repository: name,
        digest,
        text: digest,
      })
      assert.deepEqual(parseOciPath(manifestPath(name, reference)), {
        kind: 'manifest',
        repository: name,
        reference,
        text: 'latest',
      })
      assert.deepEqual(parseOciPath(uploadPath(name, 'an-id')), {
        kind: 'upload',
        repository: name,
        id: 'an-id',
      })
      assert.deepEqual(parseOciPath(tagsPath(name)), { kind: 'tags', repository: name })
      assert.deepEqual(parseOciPath(referrersPath(name, digest)), {
        kind: 'referrers',
        repository: name,
        digest,
        text: digest,
      })
      assert.deepEqual(parseOciPath(`/v2/${name}/blobs/uploads/`), {
        kind: 'uploads',
        repository: name,
      })
      assert.deepEqual(parseOciPath(`/v2/${name}/blobs/uploads`), {
        kind: 'uploads',
        repository: name,
      })
    }),
  )
})

test('the ping and the catalog are known, with and without their slash', () => {
  assert.deepEqual(parseOciPath('/v2'), { kind: 'ping' })
  assert.deepEqual(parseOciPath('/v2/'), { kind: 'ping' })
  assert.deepEqual(parseOciPath('/v2/_catalog'), { kind: 'catalog' })
})

test('a digest in a path may be percent-encoded', () => {
  const path = parseOciPath(`/v2/a/blobs/${encodeURIComponent(digest)}`)
  assert.deepEqual(path, { kind: 'blob', repository: 'a', digest, text: digest })
})

test('a reference or digest that is not of the grammar is undefined, and its text is kept', () => {
  assert.deepEqual(parseOciPath('/v2/a/manifests/.bad'), {
    kind: 'manifest',
    repository: 'a',
    reference: undefined,
    text: '.bad',
  })
  assert.deepEqual(parseOciPath('/v2/a/blobs/sha256:x'), {
    kind: 'blob',
    repository: 'a',
    digest: undefined,
    text: 'sha256:x',
  })
})

test('encoded separators, dot segments, NUL and broken encodings are NAME_INVALID, never another path', () => {
  for (const path of [
    '/v2/a%2Fb/tags/list',
    '/v2/a/%2e%2e/b/tags/list',
    '/v2/a/../b/tags/list',
    '/v2/a%00/tags/list',
    '/v2/a%5cb/tags/list',
    '/v2/%zz/tags/list',
    '/v2/a//b/tags/list',
    '/v2//tags/list',
    '/v2/A/tags/list',
    '/v2/tags/list/blobs/uploads/',
  ]) {
    if (path === '/v2/tags/list/blobs/uploads/') {
      assert.deepEqual(parseOciPath(path), { kind: 'uploads', repository: 'tags/list' })
    } else {
      assert.throws(() => parseOciPath(path), { code: 'NAME_INVALID' }, path)
    }
  }
})

test('what is no endpoint is undefined', () => {
  for (const path of [
    '/',
    '/v3/',
    '/v2/a',
    '/v2/a/b',
    '/v2/a/tags',
    '/v2/a/_ext/x',
    '/v2/_oci/ext/discover',
    '/v2x/a/tags/list',
    '/v2/a/blobs/uploads/a%20b',
  ]) {
    assert.equal(parseOciPath(path), undefined, path)
  }
})

test('no text makes the reader fail other than by a refusal', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
      try {
        parseOciUrl(`/v2/${text}`)
      } catch (error) {
        assert.ok(error instanceof OciError)
      }
    }),
  )
})

test('the query is read beside the path', () => {
  const target = parseOciUrl('/v2/a/tags/list?n=2&last=x&ns=docker.io')
  assert.equal(target?.query.get('ns'), 'docker.io')
  assert.equal(target?.query.get('n'), '2')
})
