import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test, type TestContext } from 'node:test'
import { createStopRequest, stopOnSignals } from '../../deploy/stop-request.ts'
import { createTestClock } from '../kit/clock.ts'

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** A request that listens to this process's signals, which the test sends by hand. */
function listen(t: TestContext) {
  const clock = createTestClock()
  const request = createStopRequest()
  stopOnSignals(request, clock.now)
  t.after(() => signals.forEach((signal) => process.removeAllListeners(signal)))
  const state = { asked: false, forced: false }
  void request.asked.then(() => (state.asked = true))
  void request.forced.then(() => (state.forced = true))
  return {
    clock,
    send: async (signal: NodeJS.Signals) => {
      process.emit(signal, signal)
      await turn()
      return { ...state }
    },
  }
}

test('any of the signals asks for a stop', async (t) => {
  for (const signal of signals) {
    const { send } = listen(t)
    assert.deepEqual(await send(signal), { asked: true, forced: false })
  }
})

test('Ctrl-C asks for a stop within seconds; the others leave it to the configuration', async (t) => {
  for (const signal of signals) {
    const request = createStopRequest()
    stopOnSignals(request)
    t.after(() => process.removeAllListeners(signal))
    process.emit(signal, signal)
    const { longestMs } = await request.asked
    assert.equal(longestMs, signal === 'SIGINT' ? 5_000 : Infinity)
    assert.ok(request.signal.aborted)
    process.removeAllListeners(signal)
  }
})

test('one press of Ctrl-C that arrives three times is one press', async (t) => {
  const { send, clock } = listen(t)
  await send('SIGINT')
  clock.advance(100)
  await send('SIGINT')
  clock.advance(400)
  assert.deepEqual(await send('SIGINT'), { asked: true, forced: false })
})

test('a second press forces the stop; a second SIGTERM does not', async (t) => {
  const { send, clock } = listen(t)
  await send('SIGTERM')
  clock.advance(2000)
  assert.deepEqual(await send('SIGTERM'), { asked: true, forced: false })
  assert.deepEqual(await send('SIGINT'), { asked: true, forced: true })
})
