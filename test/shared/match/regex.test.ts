import assert from 'node:assert/strict'
import { test } from 'node:test'
import { matchesRegex, parseRegex } from '../../../shared/match/regex.ts'

test('an expression matches the whole of a text', () => {
  for (const [expression, text, isMatch] of [
    ['v1', 'v1', true],
    ['v1', 'v1.2', false],
    ['v1', 'xv1', false],
    ['v1.*', 'v1.2', true],
    ['a|ab', 'ab', true],
    ['^v1$', 'v1', true],
    ['v1$', 'v1\n', false],
    ['(?i)latest', 'LATEST', true],
    ['library/(app|web)-\\d+', 'library/web-7', true],
    ['(?P<major>\\d+)\\.\\d+', '1.2', true],
    ['\\p{Greek}+', 'αβ', true],
    ['.', '😀', true],
    ['.*', '', true],
  ] as const)
    assert.equal(matchesRegex(parseRegex(expression), text), isMatch, `${expression} with ${text}`)
})

test('an expression that cannot be read is refused, and the message says why', () => {
  const refusals: [string, RegExp][] = [
    ['', /is empty: write \.\*/],
    ['(', /missing closing \)/],
    ['[a', /missing closing \]/],
    ['a(?=b)', /neither look-around nor back-references/],
    ['(a)\\1', /neither look-around nor back-references/],
    ['a{1001}', /invalid repeat count/],
    ['(.{0,31}){0,32}', /repeats too much/],
    ['a'.repeat(513), /more than 512 characters/],
  ]
  for (const [expression, message] of refusals)
    assert.throws(() => parseRegex(expression), { name: 'RangeError', message }, expression)
})

test('an expression that would keep a backtracking engine for years takes moments', () => {
  const text = 'a'.repeat(255)
  for (const expression of ['(a+)+b', '(a|a)*b', '(a*)*b', '(.*)(.*)(.*)(.*)(.*)b']) {
    const startedAt = performance.now()
    assert.equal(matchesRegex(parseRegex(expression), text), false)
    assert.ok(performance.now() - startedAt < 2000, expression)
  }
})
