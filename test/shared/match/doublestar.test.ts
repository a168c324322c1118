import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { matches, parsePattern } from '../../../shared/match/doublestar.ts'

type Case = readonly [pattern: string, name: string, isMatch: boolean]

// Each row is what doublestar v4.10.4 answers.
const cases: Readonly<Record<string, readonly Case[]>> = {
  'characters are themselves': [
    ['', '', true],
    ['', 'v1', false],
    ['v1', 'v1', true],
    ['v1', 'v12', false],
    ['v1', 'xv1', false],
    ['v1', 'V1', false],
    ['v1', '', false],
    ['library/app', 'library/app', true],
    ['library/app', 'library//app', false],
    ['library/', 'library', false],
    ['a,b]-!^', 'a,b]-!^', true],
  ],
  'a star is any characters of one segment': [
    ['*', '', true],
    ['*', 'latest', true],
    ['*', '/', false],
    ['*', 'library/app', false],
    ['/*', '/', true],
    ['/*', '//', false],
    ['*/', 'app/', true],
    ['v*', 'v', true],
    ['v*', 'v1.2', true],
    ['*-alpine', '3.20-alpine', true],
    ['*-alpine', '3.20-alpine3', false],
    ['*a', 'aaa', true],
    ['lib*/app', 'library/app', true],
    ['lib*/app', 'lib/x/app', false],
    ['lib*app', 'lib/app', false],
    ['*/app', 'library/app', true],
    ['*/app', 'app', false],
    ['*/*', 'library/app', true],
    ['*/*', 'library/team/app', false],
    ['a*b*c', 'abbcbc', true],
    ['a*b*c', 'abbcbd', false],
    ['*1*2*3*/x', '0102030/x', true],
    ['*1*2*3*/x', '010203/0/x', false],
    ['1*2?3*4', '12a2b3a3b2b34', true],
    ['1*2?3*4', '12a2b3a3b2b35', false],
  ],
  'a question mark is one character of a segment': [
    ['v?', 'v1', true],
    ['v?', 'v', false],
    ['v?', 'v12', false],
    ['a?b', 'a/b', false],
    ['a?b', 'aüb', true],
    ['a?b', 'a😀b', true],
    ['a??b', 'a😀b', false],
  ],
  'two stars are any number of segments': [
    ['**', '', true],
    ['**', 'app', true],
    ['**', 'library/team/app', true],
    ['library/**', 'library', true],
    ['library/**', 'library/', true],
    ['library/**', 'library/app', true],
    ['library/**', 'library/team/app', true],
    ['library/**', 'library2/app', false],
    ['library/**', 'x/library/app', false],
    ['library/**/', 'library', true],
    ['library/**/', 'library/', true],
    ['library/**/', 'library/app', false],
    ['library/**/', 'library/app/', true],
    ['**/app', 'app', true],
    ['**/app', 'library/app', true],
    ['**/app', 'library/team/app', true],
    ['**/app', 'library/myapp', false],
    ['**/app', 'library/app/x', false],
    ['library/**/app', 'library/app', true],
    ['library/**/app', 'library/a/b/app', true],
    ['library/**/app', 'library/a/b/apps', false],
    ['library/**/*-dev', 'library/a/b-dev', true],
    ['**/a/**/b/**', 'x/a/b', true],
    ['**/a/**/b/**', 'a/x/y/b/z', true],
    ['**/a/**/b/**', 'x/y/b/a', false],
    ['a/*/*/d', 'a/b/c/d', true],
    ['a/**', 'a/[]{}*?', true],
  ],
  'two stars within a segment are as one': [
    ['app**', 'app1', true],
    ['app**', 'app/x', false],
    ['**app', 'myapp', true],
    ['**app', 'my/app', false],
    ['library/**app', 'library/myapp', true],
    ['library/**app', 'library/my/app', false],
    ['library/app**/x', 'library/app1/x', true],
    ['library/app**/x', 'library/app/y/x', false],
    ['library/***/x', 'library/a/x', true],
    ['library/***/x', 'library/a/b/x', false],
  ],
  'a class is one of its characters': [
    ['v[123]', 'v2', true],
    ['v[123]', 'v4', false],
    ['v[1-3]', 'v3', true],
    ['v[1-3]', 'v12', false],
    ['v[0-9a-f]', 'vc', true],
    ['v[0-9a-f]', 'vg', false],
    ['v[!1-3]', 'v4', true],
    ['v[!1-3]', 'v2', false],
    ['v[^1-3]', 'v4', true],
    ['v[^1-3]', 'v2', false],
    ['v[^1]', 'v', false],
    ['v[^1][^1]', 'v😀', false],
    ['v[^1]', 'v😀', true],
    ['[ä-ü]*', 'ö', true],
    ['*[ä-ü]', 'o', false],
    ['[-]', '-', true],
    ['[-x]', '-', true],
    ['[x-]', '-', true],
    ['[x-]', 'y', false],
    ['[a-c-f]', '-', true],
    ['[a-c-f]', 'f', true],
    ['[a-c-f]', 'e', false],
    ['[c-a]', 'b', false],
    ['[c-a]', 'c', true],
    ['[\\]x]', ']', true],
    ['[a\\-c]', '-', true],
    ['[a\\-c]', 'b', false],
    ['[\\!x]', '!', true],
    ['[x^]', '^', true],
    ['[*?]', '*', true],
    ['[*?]', 'x', false],
    ['[{,}]', ',', true],
  ],
  'braces are alternatives': [
    ['{a,b}', 'b', true],
    ['{a,b}', 'c', false],
    ['{a,b}', 'a,b', false],
    ['v1{,-alpine}', 'v1', true],
    ['v1{,-alpine}', 'v1-alpine', true],
    ['{v*,latest}', 'v2', true],
    ['{v*,latest}', 'latest', true],
    ['{v*,latest}', 'late', false],
    ['library/{app,web}', 'library/web', true],
    ['{library/app,infra/*}', 'infra/dns', true],
    ['{library/{app,web},infra}', 'library/app', true],
    ['{library/{app,web},infra}', 'infra', true],
    ['{library/{app,web},infra}', 'library/infra', false],
    ['{only}', 'only', true],
    ['x{}y', 'xy', true],
    ['a*{b,c}', 'abcb', true],
    ['{a*,b}c', 'axxc', true],
    ['{[a,b]c,d}', 'bc', true],
    ['{[a,b]c,d}', ',c', true],
    ['{[}],a}', '}', true],
    ['{[}],a}', 'b', false],
    ['{a\\,b,c}', 'a,b', true],
    ['{a\\}b,c}', 'a}b', true],
    ['library/{**/app,web}', 'library/a/b/app', true],
    ['library{**/app,web}', 'library/a/app', false],
    ['{**,infra}/app', 'a/b/app', true],
    ['{**,infra}/app', 'app', true],
    ['{library/,}**/app', 'library/a/app', true],
    ['library/{*,x}*/app', 'library/a/b/app', true],
    ['library/{a,**}', 'library/b/c', true],
  ],
  'a backslash takes the next character as it is': [
    ['v\\*', 'v*', true],
    ['v\\*', 'v1', false],
    ['v\\?', 'v?', true],
    ['v\\?', 'v1', false],
    ['\\[a\\]', '[a]', true],
    ['\\[*\\]', '[x]', true],
    ['\\{a,b\\}', '{a,b}', true],
    ['\\{a,b\\}', 'a', false],
    ['{\\*,\\?}', '?', true],
    ['{\\*,\\?}', 'x', false],
    ['\\\\', '\\', true],
    ['\\v1', 'v1', true],
    ['library/\\**', 'library/*x', true],
    ['library/\\**', 'library/x/y', false],
  ],
}

for (const [behaviour, rows] of Object.entries(cases)) {
  test(behaviour, () => {
    for (const [pattern, name, isMatch] of rows)
      assert.equal(matches(parsePattern(pattern), name), isMatch, `${pattern} with "${name}"`)
  })
}

test('what is nothing at the end of one pattern is nothing at the end of all', () => {
  for (const [pattern, name] of [
    ['v1*{,x}', 'v1'],
    ['v1***', 'v1'],
    ['v1{*,x}*', 'v1'],
    ['**/*', ''],
    ['{library/**,}', 'library'],
    ['library{/**,}', 'library'],
    ['library/{**,x}', 'library'],
  ] as const)
    assert.ok(matches(parsePattern(pattern), name), `${pattern} with "${name}"`)
})

test('a malformed pattern is refused, and the message says what is wrong and where', () => {
  const refusals: [string, RegExp][] = [
    ['v\\', /nothing follows a \\.* at character 2/],
    ['v[', /\[ is never closed.* at character 2/],
    ['[^', /never closed.* at character 1/],
    ['[^1', /never closed/],
    ['[a-', /never closed/],
    ['[\\', /nothing follows|never closed/],
    ['😀[]', /at character 2/],
    ['[]', /class is empty.* at character 1/],
    ['[!]', /class is empty/],
    ['[]a]', /class is empty/],
    ['ab{c,d}[', /never closed.* at character 8/],
    ['x{a,b', /\{ is never closed.* at character 2/],
    ['{a,{b}', /\{ is never closed.* at character 1/],
    ['{a,[}]', /\{ is never closed/],
    ['a}b', /\} closes nothing.* at character 2/],
    ['{a}}', /\} closes nothing.* at character 4/],
    ['x'.repeat(1025), /more than 1024 characters/],
  ]
  for (const [pattern, message] of refusals)
    assert.throws(() => parsePattern(pattern), { name: 'RangeError', message }, pattern)
})

describe('any pattern', () => {
  const wildcard = fc.constantFrom('*', '**', '/**/', '/**', '**/', '?', '[ab]', '[!a]', '[b-]')
  const letter = fc.constantFrom('a', 'b', '/', '\\*')
  const { pattern } = fc.letrec<{ pattern: string; alternatives: string }>((tie) => ({
    pattern: fc
      .array(fc.oneof({ depthSize: 'small' }, letter, wildcard, tie('alternatives')), {
        maxLength: 4,
      })
      .map((parts) => parts.join('')),
    alternatives: fc
      .array(tie('pattern'), { minLength: 1, maxLength: 3 })
      .map((parts) => `{${parts.join(',')}}`),
  }))
  const name = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '/', '*'), maxLength: 6 })

  test('matches what the patterns without braces match that it stands for', () => {
    fc.assert(
      fc.property(pattern, name, (text, subject) => {
        const meant = expand(text)
        // `a/**/` may end in what matches nothing: which slash that is, expressions cannot tell.
        fc.pre(meant.length < 50 && !meant.some((one) => one.endsWith('/')))
        assert.equal(
          matches(parsePattern(text), subject),
          meant.some((one) => expressionOf(one).test(subject)),
        )
      }),
      { numRuns: 1000 },
    )
  })

  test('matches, or is refused by a RangeError', () => {
    const text = fc.string({ unit: fc.constantFrom(...'ab/*?[]{},\\-!^'), maxLength: 12 })
    fc.assert(
      fc.property(text, name, (text, subject) => {
        try {
          matches(parsePattern(text), subject)
        } catch (error) {
          assert.ok(error instanceof RangeError)
        }
      }),
    )
  })

  test('matches itself when each of its characters is escaped', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 20 }), (text) => {
        const escaped = [...text].map((char) => `\\${char}`).join('')
        assert.ok(matches(parsePattern(escaped), text))
      }),
    )
  })

  test('of 255 characters takes no more than moments, with a name of 255', () => {
    const piece = fc.constantFrom(
      '*a',
      '**/',
      '{a,}',
      '{*,a}',
      '{,**/}',
      '*?',
      '[a-z]*',
      '{{a,},*}',
    )
    const hostile = fc
      .array(piece, { minLength: 1, maxLength: 3 })
      .map((pieces) => pieces.join(''))
      .map((unit) => unit.repeat(Math.floor(254 / unit.length)))
    const long = fc.constantFrom('a'.repeat(255), 'a/'.repeat(127), 'ab'.repeat(127))
    fc.assert(
      fc.property(hostile, long, (text, subject) => {
        const startedAt = performance.now()
        matches(parsePattern(`${text}x`), subject)
        // Backtracking would take years, this some milliseconds.
        assert.ok(performance.now() - startedAt < 2000)
      }),
      { numRuns: 15 },
    )
  })
})

/** The patterns without braces that a pattern stands for; no class of the generator's holds one. */
function expand(text: string): readonly string[] {
  const open = text.indexOf('{')
  if (open < 0) return [text]
  const alternatives: string[] = []
  let depth = 0
  let start = open + 1
  let close = open
  for (; close < text.length; close++) {
    const char = text[close]
    if (char === '{') depth++
    if (char === '}') depth--
    if (depth === 0 || (char === ',' && depth === 1)) {
      alternatives.push(text.slice(start, close))
      start = close + 1
    }
    if (depth === 0) break
  }
  return alternatives.flatMap((one) => expand(text.slice(0, open) + one + text.slice(close + 1)))
}

/** What a pattern without braces means, as an expression. */
function expressionOf(text: string): RegExp {
  const source = text.replaceAll(
    /(?<=^|\/)\*\*\/|\/\*\*$|\*+|\?|\[!|\\./g,
    (part, offset: number) => {
      if (part === '**/') return '(?:.*/)?'
      if (part === '/**') return '(?:/.*)?'
      const startsSegment = offset === 0 || text[offset - 1] === '/'
      if (part === '**' && startsSegment && offset + 2 === text.length) return '.*'
      if (part.startsWith('*')) return '[^/]*'
      if (part === '?') return '[^/]'
      return part === '[!' ? '[^' : part
    },
  )
  return new RegExp(`^${source}$`, 's')
}
