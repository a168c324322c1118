import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ApiError } from '../../../shared/api/errors.ts'
import { parseQuery, parseSort, type Fields, type Filter } from '../../../shared/api/query.ts'

const fields: Fields = {
  username: { column: 'users.username', type: 'text' },
  project_id: { column: 'project_id', type: 'integer' },
  creation_time: { column: 'created_at', type: 'time' },
  disable: { column: 'disabled', type: 'boolean' },
}

function assertRefused(act: () => unknown, message?: string): void {
  assert.throws(act, (error) => error instanceof ApiError && error.status === 400, message)
}

test('every form of a condition is read', () => {
  const column = 'users.username'
  const cases: [string, readonly Filter[]][] = [
    ['username=alice', [{ kind: 'exact', column, value: 'alice' }]],
    ['username="a, b"', [{ kind: 'exact', column, value: 'a, b' }]],
    ['username=\\~a', [{ kind: 'exact', column, value: '~a' }]],
    ['username=a=b', [{ kind: 'exact', column, value: 'a=b' }]],
    ['username=~al', [{ kind: 'fuzzy', column, value: 'al' }]],
    ['username={a "b c" \'d\'}', [{ kind: 'any', column, values: ['a', 'b c', 'd'] }]],
    ['username=(a b)', [{ kind: 'all', column, values: ['a', 'b'] }]],
    ['project_id=[1~9]', [{ kind: 'range', column: 'project_id', min: 1, max: 9 }]],
    ['project_id=[~9]', [{ kind: 'range', column: 'project_id', min: undefined, max: 9 }]],
    ['ProjectID=7', [{ kind: 'exact', column: 'project_id', value: 7 }]],
    ['disable=true', [{ kind: 'exact', column: 'disabled', value: true }]],
    [
      'creation_time=["2020-04-09 02:36:00"~2020-04-10T00:00:00+02:00]',
      [
        {
          kind: 'range',
          column: 'created_at',
          min: new Date('2020-04-09T02:36:00Z'),
          max: new Date('2020-04-09T22:00:00Z'),
        },
      ],
    ],
    [
      'username=~a,project_id=7',
      [
        { kind: 'fuzzy', column, value: 'a' },
        { kind: 'exact', column: 'project_id', value: 7 },
      ],
    ],
    ['username%3Dalice', [{ kind: 'exact', column, value: 'alice' }]],
    ['', []],
  ]
  for (const [text, expected] of cases) assert.deepEqual(parseQuery(text, fields), expected, text)
})

test('broken conditions are refused', () => {
  const broken = [
    'username',
    'username=',
    '=alice',
    'username=~',
    'username=[a~]x',
    'username=[~]',
    'username=[a]',
    'username=[a~b~c]',
    'username={a',
    'username={}',
    'username=(a}',
    'project_id=x',
    'project_id=~1',
    'project_id=1;DROP TABLE users',
    'creation_time=yesterday',
    'creation_time=2020-13-45',
    'disable=maybe',
    'username=a\0b',
    `username=${'a'.repeat(3000)}`,
    Array.from({ length: 21 }, () => 'username=a').join(','),
  ]
  for (const text of broken) assertRefused(() => parseQuery(text, fields), text.slice(0, 40))
})

test('what is not in the allow-list can be neither filtered nor sorted by', () => {
  const hidden = [
    'password_hash',
    'password',
    'users.username',
    'username; --',
    '__proto__',
    'constructor',
    'secret_hash',
    "username' OR '1'='1",
  ]
  for (const name of hidden) {
    assertRefused(() => parseQuery(`${name}=~a`, fields), name)
    assertRefused(() => parseSort(name, fields), name)
  }
})

test('sort keys may descend', () => {
  assert.deepEqual(parseSort('username,-creation_time', fields), [
    { column: 'users.username', descending: false },
    { column: 'created_at', descending: true },
  ])
  assert.deepEqual(parseSort(undefined, fields), [])
  assertRefused(() => parseSort('username,', fields))
  assertRefused(() => parseSort('--username', fields))
})

test('any text is either read with columns of the allow-list or refused', () => {
  const columns = Object.values(fields).map(({ column }) => column)
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.tuple(fc.constantFrom(...Object.keys(fields)), fc.string()).map(([k, v]) => `${k}=${v}`),
  )
  fc.assert(
    fc.property(text, (q) => {
      try {
        for (const filter of parseQuery(q, fields)) assert.ok(columns.includes(filter.column))
        for (const sort of parseSort(q, fields)) assert.ok(columns.includes(sort.column))
      } catch (error) {
        assert.ok(error instanceof ApiError, String(error))
      }
    }),
  )
})
