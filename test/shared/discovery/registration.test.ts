import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { createConsulClient } from '../../../shared/discovery/consul-client.ts'
import { announce, keepRegistered } from '../../../shared/discovery/registration.ts'
import { serviceOf } from '../../../shared/discovery/service.ts'
import { waitFor } from '../../kit/clock.ts'
import { startFakeConsul } from '../../kit/consul.ts'
import { createRecordingLog } from '../../kit/http-server.ts'
import { createTestPace } from '../../kit/pace.ts'

const announcement = {
  id: 'e1',
  url: 'https://e1.example.com',
  version: '1.2.3',
  site: 'berlin',
  region: 'eu',
  ttlMs: 15_000,
  deregisterAfterMs: 300_000,
}

async function startStand(t: TestContext, isHealthy?: () => boolean) {
  const consul = await startFakeConsul(t)
  const client = await createConsulClient({ url: consul.url })
  t.after(() => client.close())
  const pace = createTestPace()
  const { log, lines } = createRecordingLog()
  const service = serviceOf('outport-edge', announcement)
  const registration = keepRegistered({
    client,
    service,
    log,
    pace,
    ...(isHealthy && { isHealthy }),
  })
  t.after(() => registration.close())
  const found = () => consul.services.get('outport-edge-e1')
  /** Lets one beat come, and waits until it was answered: time stands still meanwhile. */
  const beat = async (ms = 5000) => {
    const before = pace.waits.length
    await pace.pass(ms)
    await waitFor('the wait for the next beat', () => pace.waits.length > before)
  }
  const began = () => waitFor('the registration', () => pace.waits.length > 0)
  return { consul, pace, lines, registration, found, beat, began, service }
}

test('what is registered says where it is, and its beats write nothing', async (t) => {
  const { consul, found, beat, began, pace } = await startStand(t)
  await began()
  assert.equal(found()?.status, 'passing')
  assert.deepEqual(found()?.registration['Meta'], {
    id: 'e1',
    url: 'https://e1.example.com',
    version: '1.2.3',
    site: 'berlin',
    region: 'eu',
  })
  assert.equal(found()?.registration['Address'], 'e1.example.com')
  assert.equal(found()?.registration['Port'], 443)
  for (let count = 0; count < 10; count++) await beat()
  assert.equal(consul.writes(), 1)
  assert.equal(found()?.output, '')
  assert.ok(Math.max(...pace.waits) <= 5000, 'a beat comes well before the check lapses')
})

test('an agent that lost it gets it again at the next beat', async (t) => {
  const { consul, pace, found, beat, began, lines } = await startStand(t)
  await began()
  consul.forget()
  await beat()
  await waitFor('it, at once', async () => {
    await pace.pass(0)
    return found()?.status === 'passing'
  })
  assert.ok(!lines.some(({ level }) => level === 'warn'))
})

test('Consul away: it is tried again, said once, and well again when Consul is back', async (t) => {
  const { consul, found, beat, began, lines } = await startStand(t)
  await began()
  consul.break('cut')
  for (let count = 0; count < 4; count++) await beat()
  consul.break({ status: 500 })
  for (let count = 0; count < 4; count++) await beat()
  consul.break()
  consul.forget()
  await beat()
  assert.equal(found()?.status, 'passing')
  assert.deepEqual(
    lines.map(({ level, msg }) => [level, msg]),
    [
      ['info', 'registered at Consul'],
      ['warn', 'not registered at Consul: it is tried again'],
      ['info', 'registered at Consul'],
    ],
  )
})

test('what is not healthy is critical, with a text that stays the same', async (t) => {
  let isHealthy = true
  const { consul, found, beat, began } = await startStand(t, () => isHealthy)
  await began()
  isHealthy = false
  await beat()
  assert.equal(found()?.status, 'critical')
  const output = found()?.output
  await beat()
  await beat()
  assert.equal(found()?.output, output)
  assert.equal(consul.writes(), 2)
  isHealthy = true
  await beat()
  assert.equal(found()?.status, 'passing')
})

test('closing takes it off the list, once, also when Consul is away', async (t) => {
  const { consul, registration, began } = await startStand(t)
  await began()
  await registration.close()
  assert.equal(consul.services.size, 0)
  const count = consul.requests.length
  await registration.close()
  assert.equal(consul.requests.length, count)
  const other = await startStand(t)
  await other.began()
  other.consul.break('cut')
  await other.registration.close()
  assert.ok(other.lines.some(({ msg }) => msg === 'Consul was not told that this ends'))
})

test('a program without a consul group announces nothing', async () => {
  const { log, lines } = createRecordingLog()
  const announced = { name: 'outport-edge', ...announcement } as const
  const registration = await announce(undefined, { announced, log })
  await registration.close()
  assert.deepEqual(lines, [])
})

test('what Consul cannot be told is refused', () => {
  const wrong = [
    { id: 'a\nb' },
    { id: 'UPPER' },
    { url: 'https://user:password@e1.example.com' },
    { url: 'https://e1.example.com/path' },
    { url: 'ftp://e1.example.com' },
    { url: 'http://0.0.0.0:8081' },
    { url: 'http://[::]:8081' },
    { url: `https://${'e'.repeat(600)}.example.com` },
    { version: '' },
    { site: 'a b' },
    { region: 'x'.repeat(64) },
  ]
  for (const part of wrong)
    assert.throws(() => serviceOf('outport-edge', { ...announcement, ...part }), RangeError)
  const local = serviceOf('outport-primary', { ...announcement, url: 'http://[::1]:8080' })
  assert.deepEqual([local.address, local.port], ['::1', 8080])
})
