import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  containsAction,
  containsScope,
  formatScope,
  maxScopes,
  parseScope,
  parseScopes,
  type Scope,
} from '../../../shared/auth/scope.ts'

const anyScope: fc.Arbitrary<Scope> = fc.record(
  {
    type: fc.stringMatching(/^[a-z0-9]{1,12}$/),
    name: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:/-]{0,40}$/),
    actions: fc.uniqueArray(fc.stringMatching(/^(?:\*|[a-z]{1,8})$/), {
      minLength: 1,
      maxLength: 6,
    }),
  },
  { noNullPrototype: true },
)

test('the forms that clients send are read', () => {
  const cases: [string, Scope | undefined][] = [
    ['repository:library/app:pull', { type: 'repository', name: 'library/app', actions: ['pull'] }],
    ['repository:a/b:push,pull', { type: 'repository', name: 'a/b', actions: ['push', 'pull'] }],
    ['repository:a/b:pull,pull', { type: 'repository', name: 'a/b', actions: ['pull'] }],
    ['repository(plugin):a/b:pull', { type: 'repository', name: 'a/b', actions: ['pull'] }],
    [
      'repository:reg.example:5000/a/b:pull',
      { type: 'repository', name: 'reg.example:5000/a/b', actions: ['pull'] },
    ],
    ['registry:catalog:*', { type: 'registry', name: 'catalog', actions: ['*'] }],
    [
      'repository:a/b:pull,,PULL,push',
      { type: 'repository', name: 'a/b', actions: ['pull', 'push'] },
    ],
  ]
  for (const [text, expected] of cases) assert.deepEqual(parseScope(text), expected, text)
})

test('garbage is dropped', () => {
  const garbage = [
    '',
    ':',
    '::',
    'repository',
    'repository:a',
    'repository:a/b:',
    'repository::pull',
    'Repository:a/b:pull',
    'repository(x:a/b:pull',
    'repository:a b:pull',
    'repository:a/b:PULL',
    'repository:a"b:pull',
    'repository:a\r\nSet-Cookie/b:pull',
    `repository:${'a'.repeat(2000)}:pull`,
  ]
  for (const text of garbage) assert.equal(parseScope(text), undefined, JSON.stringify(text))
})

test('repeated and space-joined parameters mean the same', () => {
  const repeated = parseScopes(['repository:a/b:pull', 'repository:c/d:push,pull'])
  const joined = parseScopes(['repository:a/b:pull  nonsense repository:c/d:push,pull'])
  assert.deepEqual(joined, repeated)
  assert.equal(repeated.length, 2)
})

test('scopes of one resource are merged', () => {
  assert.deepEqual(parseScopes(['repository:a/b:pull', 'repository:a/b:push,pull']), [
    { type: 'repository', name: 'a/b', actions: ['pull', 'push'] },
  ])
})

test('no more than 32 resources are kept, whatever is asked', () => {
  const many = Array.from({ length: 100 }, (_, index) => `repository:a/b${index}:pull`)
  const scopes = parseScopes([many.join(' '), 'repository:a/b0:push'])
  assert.equal(scopes.length, maxScopes)
  assert.deepEqual(scopes[0]?.actions, ['pull', 'push'])
})

test('parse undoes format', () => {
  fc.assert(
    fc.property(anyScope, (scope) => {
      assert.deepEqual(parseScope(formatScope(scope)), scope)
    }),
  )
})

test('any text is read without a throw, and what is read prints in the grammar', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (text) => {
      const scope = parseScope(text)
      if (scope !== undefined) assert.match(formatScope(scope), /^[a-z0-9]+:[\w.:/-]+:[a-z*,]+$/)
    }),
  )
})

test('containment is reflexive, and no scope contains an action that it does not list', () => {
  fc.assert(
    fc.property(anyScope, fc.stringMatching(/^[a-z]{1,8}$/), (scope, action) => {
      assert.ok(containsScope([scope], scope))
      const listed = scope.actions.includes(action) || scope.actions.includes('*')
      const wanted = { type: scope.type, name: scope.name, action }
      assert.equal(containsAction([scope], wanted), listed)
      assert.ok(!containsAction([scope], { ...wanted, name: `${scope.name}x` }))
      assert.ok(!containsAction([scope], { ...wanted, type: `${scope.type}x` }))
    }),
  )
})
