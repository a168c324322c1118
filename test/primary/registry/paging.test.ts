import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { OciError } from '../../../shared/oci/errors.ts'
import { cutPage, parsePage } from '../../../primary/registry/paging.ts'

const limits = { maxLimit: 1000 }

test('n and last are read, and both may be missing', () => {
  assert.deepEqual(parsePage(new URLSearchParams(), limits), { limit: undefined, after: '' })
  assert.deepEqual(parsePage(new URLSearchParams('n=0'), limits), { limit: 0, after: '' })
  assert.deepEqual(parsePage(new URLSearchParams('last=b'), limits), {
    limit: undefined,
    after: 'b',
  })
  assert.deepEqual(parsePage(new URLSearchParams(), { ...limits, defaultLimit: 100 }), {
    limit: 100,
    after: '',
  })
})

test('a larger n is cut to the limit, however large', () => {
  for (const n of ['1001', '1e9', '99999999999999999999999']) {
    assert.equal(parsePage(new URLSearchParams({ n }), limits).limit, 1000)
  }
})

test('an n that is negative or no number is refused', () => {
  for (const n of ['-1', 'x', '1.5', ' 1', '0x10', 'NaN', 'Infinity']) {
    assert.throws(
      () => parsePage(new URLSearchParams({ n }), limits),
      (error) => error instanceof OciError && error.code === 'PAGINATION_NUMBER_INVALID',
    )
  }
})

test('a last with a NUL orders as what stands before it', () => {
  assert.equal(parsePage(new URLSearchParams('last=a%00b'), limits).after, 'a')
})

test('a page that is not the last names the next one, relative', () => {
  const page = cutPage(['a', 'b', 'c'], { path: '/v2/x/tags/list', limit: 2 })
  assert.deepEqual(page.names, ['a', 'b'])
  assert.equal(page.link, '</v2/x/tags/list?n=2&last=b>; rel="next"')
})

test('a last page that is exactly full, an empty one and an unlimited one name no next', () => {
  assert.equal(cutPage(['a', 'b'], { path: '/', limit: 2 }).link, undefined)
  assert.equal(cutPage(['a'], { path: '/', limit: 0 }).link, undefined)
  assert.equal(cutPage(['a'], { path: '/', limit: undefined }).link, undefined)
})

test('following the links sees every name once, in order', () => {
  const names = fc.uniqueArray(fc.stringMatching(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,5}$/))
  fc.assert(
    fc.property(names, fc.integer({ min: 1, max: 5 }), (all, limit) => {
      const sorted = all.toSorted((a, b) => (a < b ? -1 : 1))
      const seen: string[] = []
      for (let query = new URLSearchParams({ n: String(limit) }); ;) {
        const asked = parsePage(query, limits)
        const found = sorted.filter((name) => name > asked.after).slice(0, limit + 1)
        const page = cutPage(found, { path: '/p', limit: asked.limit })
        seen.push(...page.names)
        const next = /^<\/p\?(.*)>/.exec(page.link ?? '')?.[1]
        if (next === undefined) break
        query = new URLSearchParams(next)
      }
      assert.deepEqual(seen, sorted)
    }),
  )
})
