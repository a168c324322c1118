import assert from 'node:assert/strict'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { describeFault, StartError } from '../../deploy/start-errors.ts'
import { readTextFile } from '../../shared/files/text-file.ts'
import { ConfigError } from '../../shared/config/problems.ts'

async function failureOf(work: () => Promise<unknown>): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error
  }
  return assert.fail('it did not fail')
}

test('a taken port is named, however deep the error lies', async (t) => {
  const first = createServer().listen(0, '127.0.0.1')
  await once(first, 'listening')
  t.after(() => first.close())
  const { port } = first.address() as AddressInfo
  const second = createServer().listen(port, '127.0.0.1')
  const cause = await failureOf(() => once(second, 'listening'))
  const line = describeFault(new Error('outer', { cause: new Error('inner', { cause }) }))
  assert.match(line, new RegExp(`^port ${port} is taken \\(127\\.0\\.0\\.1:${port}\\): `))
})

test('an address of another machine is named', async () => {
  const server = createServer().listen(0, '203.0.113.7')
  const error = await failureOf(() => once(server, 'listening'))
  assert.match(describeFault(error), /cannot listen on 203\.0\.113\.7.*no such address/)
})

test('a port that is any free one is not part of the address', () => {
  const told = (fields: object) => describeFault(Object.assign(new Error('x'), fields))
  const error = { code: 'EADDRNOTAVAIL', address: '10.99.99.99' }
  assert.match(told({ ...error, port: 0 }), /^cannot listen on 10\.99\.99\.99: this machine/)
  assert.match(told({ ...error, port: 80 }), /^cannot listen on 10\.99\.99\.99:80: this machine/)
  assert.match(told({ ...error, address: '2001:db8::1', port: 80 }), /\[2001:db8::1\]:80: /)
})

test('a file that is missing is told once', async () => {
  const error = await failureOf(() => readTextFile('/nowhere/ca.crt'))
  assert.equal(describeFault(error), 'cannot read /nowhere/ca.crt: there is no such file')
})

test('a full disk is told', async () => {
  const error = await failureOf(() => writeFile('/dev/full', 'x'))
  assert.match(describeFault(error), /^the disk of .* is full/)
})

test('an error with a name of its own explains itself', () => {
  class ListenError extends Error {
    override readonly name = 'ListenError'
  }
  const cause = Object.assign(new Error('no such file'), { code: 'ENOSPC' })
  assert.equal(describeFault(new ListenError('do this', { cause })), 'do this: no such file')
  assert.equal(describeFault(new ListenError('do: no such file', { cause })), 'do: no such file')
})

test('a temporary file is told as its folder', () => {
  const error = Object.assign(new Error('x'), { code: 'EACCES', path: '/data/.version.1-2.tmp' })
  assert.match(describeFault(error), /^\/data is not readable and writable/)
})

test('every problem of a configuration is in the one line', () => {
  const problems = [
    { path: 'primary.port', message: 'a' },
    { path: 'edge', message: 'b' },
  ]
  assert.match(describeFault(new ConfigError(problems)), /primary\.port: a; edge: b$/)
})

test('whatever else comes is one line, with its causes', () => {
  assert.equal(describeFault(new Error('a\n  b', { cause: new Error('c') })), 'a b: c')
  assert.equal(describeFault('text'), 'text')
  assert.equal(describeFault(new StartError('do this', { cause: new Error('c') })), 'do this')
  assert.equal(describeFault(new AggregateError([new Error('a'), new Error('b')])), 'a; b')
})
