import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  formatDuration,
  formatRate,
  formatSize,
  parseDuration,
  parseRate,
  parseSize,
} from '../../../shared/config/units.ts'

test('a size is read with its unit, in powers of 1024 or of 1000', () => {
  const cases: readonly (readonly [string | number, number | undefined])[] = [
    ['10GiB', 10 * 2 ** 30],
    ['64 KiB', 65_536],
    ['1.5KiB', 1536],
    ['8m', 8 * 2 ** 20],
    ['2GB', 2_000_000_000],
    ['512', 512],
    ['512B', 512],
    [4096, 4096],
    [0, 0],
    ['ten', undefined],
    ['10 gigs', undefined],
    ['-1', undefined],
    [-1, undefined],
    [1.5, undefined],
    ['1e9', undefined],
    ['', undefined],
    ['9007199254740993', undefined],
    ['99999TiB', undefined],
  ]
  for (const [text, bytes] of cases) assert.equal(parseSize(text), bytes, String(text))
})

test('a duration needs its unit', () => {
  const cases: readonly (readonly [string | number, number | undefined])[] = [
    ['250ms', 250],
    ['30s', 30_000],
    ['1m30s', 90_000],
    ['1.5h', 5_400_000],
    ['7d', 604_800_000],
    ['0', 0],
    [0, 0],
    ['30', undefined],
    [30, undefined],
    ['s', undefined],
    ['30 s', undefined],
    ['-5s', undefined],
    ['5y', undefined],
    ['', undefined],
  ]
  for (const [text, ms] of cases) assert.equal(parseDuration(text), ms, String(text))
})

test('a rate is a size a second', () => {
  assert.equal(parseRate('512B/s'), 512)
  assert.equal(parseRate('1MiB/s'), 2 ** 20)
  assert.equal(parseRate('512'), 512)
  assert.equal(parseRate(0), 0)
  assert.equal(parseRate('1MiB/m'), undefined)
  assert.equal(formatRate(512), '512B/s')
})

test('what is formatted is read as the same number', () => {
  fc.assert(
    fc.property(fc.nat({ max: Number.MAX_SAFE_INTEGER }), (number) => {
      assert.equal(parseSize(formatSize(number)), number)
      assert.equal(parseDuration(formatDuration(number)), number)
      assert.equal(parseRate(formatRate(number)), number)
    }),
  )
  assert.equal(formatDuration(86_400_000), '24h')
  assert.equal(formatDuration(90_000), '1m30s')
  assert.equal(formatSize(8 * 2 ** 20), '8MiB')
})
