import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseHostName, parseIpAddress } from '../../../shared/trust/names.ts'

test('host names are lower-cased, and may have a wildcard in front and underscores', () => {
  assert.equal(parseHostName('Registry.Example.COM'), 'registry.example.com')
  assert.equal(parseHostName('*.example.com'), '*.example.com')
  assert.equal(parseHostName('localhost'), 'localhost')
  assert.equal(parseHostName('my_registry'), 'my_registry')
  assert.equal(parseHostName(`${'a'.repeat(63)}.example`), `${'a'.repeat(63)}.example`)
})

for (const wrong of [
  '',
  '.',
  'a..b',
  'example.com.',
  '-a.example',
  'a-.example',
  'a b',
  'a/b',
  'a:443',
  'a\nb',
  'exämple.com',
  'a.*.example',
  '*',
  '*.',
  '10.0.0.1',
  '::1',
  'host.0x7f',
  '1.2.3',
  `${'a'.repeat(64)}.example`,
  `${'a.'.repeat(127)}example`,
]) {
  test(`${JSON.stringify(wrong)} is not a host name`, () => {
    assert.throws(() => parseHostName(wrong), RangeError)
  })
}

test('an address given as a host name is told where it belongs', () => {
  assert.throws(() => parseHostName('10.0.0.1'), /--ip/)
})

test('addresses get one spelling', () => {
  assert.equal(parseIpAddress('10.0.0.1'), '10.0.0.1')
  assert.equal(parseIpAddress('2001:DB8:0:0:0:0:0:1'), '2001:db8::1')
  assert.equal(parseIpAddress('::ffff:10.0.0.1'), '::ffff:a00:1')
})

for (const wrong of [
  '',
  'localhost',
  '10.0.0',
  '10.0.0.256',
  '010.0.0.1',
  'fe80::1%eth0',
  '[::1]',
]) {
  test(`${JSON.stringify(wrong)} is not an address`, () => {
    assert.throws(() => parseIpAddress(wrong), RangeError)
  })
}

test('parsing an address again changes nothing', () => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
      const address = parseIpAddress(text)
      assert.notEqual(isIP(address), 0)
      assert.equal(parseIpAddress(address), address)
    }),
  )
})
