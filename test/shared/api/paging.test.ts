import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ApiError } from '../../../shared/api/errors.ts'
import { formatPageLinks, parsePage } from '../../../shared/api/paging.ts'

test('a page is the first ten unless told otherwise', () => {
  assert.deepEqual(parsePage({}), { number: 1, size: 10, offset: 0 })
  assert.deepEqual(parsePage({ page: '3', page_size: '100' }), {
    number: 3,
    size: 100,
    offset: 200,
  })
})

test('pages that cannot be are 422', () => {
  const wrong = ['0', '-1', '101', 'x', '1.5', '1e2', ' 1', '99999999999', ['1', '2'], 7]
  for (const page_size of wrong) {
    assert.throws(
      () => parsePage({ page_size }),
      (error) => error instanceof ApiError && error.status === 422,
      String(page_size),
    )
  }
  assert.throws(() => parsePage({ page: '0' }), ApiError)
})

test('links name the neighbours and keep the other parameters', () => {
  const url = '/api/v2.0/projects?q=name%3D~a%26b&page=2&page_size=5'
  assert.equal(
    formatPageLinks(url, parsePage({ page: '2', page_size: '5' }), 11),
    '</api/v2.0/projects?q=name%3D%7Ea%26b&page=1&page_size=5>; rel="prev", ' +
      '</api/v2.0/projects?q=name%3D%7Ea%26b&page=3&page_size=5>; rel="next"',
  )
  assert.equal(formatPageLinks('/x', parsePage({}), 10), undefined)
  assert.equal(formatPageLinks('/x', parsePage({}), 11), '</x?page=2&page_size=10>; rel="next"')
})

test('following next from the first page meets every row once', () => {
  fc.assert(
    fc.property(fc.nat(300), fc.integer({ min: 1, max: 100 }), (total, size) => {
      let url: string | undefined = `/rows?page_size=${size}`
      let seen = 0
      while (url !== undefined) {
        const query = new URL(url, 'http://x').searchParams
        const page = parsePage({
          page: query.get('page') ?? undefined,
          page_size: query.get('page_size') ?? undefined,
        })
        assert.equal(page.offset, seen)
        seen += Math.min(page.size, total - page.offset)
        url = /<([^>]*)>; rel="next"/.exec(formatPageLinks(url, page, total) ?? '')?.[1]
      }
      assert.equal(seen, total)
    }),
  )
})
