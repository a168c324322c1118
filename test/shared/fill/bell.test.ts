import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { createBell, type Bell } from '../../../shared/fill/bell.ts'

/** Counts how often one waiter is woken. */
function listen(bell: Bell) {
  const seen = { woken: 0 }
  const waitAgain = (): void => {
    void bell.wait().then(() => {
      seen.woken++
      waitAgain()
    })
  }
  waitAgain()
  return seen
}

test('a ring wakes all who wait, those at a branch and those at the outer bell', async () => {
  const outer = createBell()
  const bell = createBell(outer)
  const all = [outer, bell, bell.branch(), bell.branch()].map(listen)
  for (const rings of [1, 2, 3]) {
    bell.ring()
    await nextTurn()
    assert.deepEqual(
      all.map(({ woken }) => woken),
      Array.from(all, () => rings),
    )
  }
})

test('a branch rings alone, and so does the outer bell', async () => {
  const outer = createBell()
  const bell = createBell(outer)
  const branch = bell.branch()
  const [atOuter, atBell, atBranch, atOther] = [outer, bell, branch, bell.branch()].map(listen)
  branch.ring()
  branch.ring()
  await nextTurn()
  assert.deepEqual(
    [atOuter, atBell, atBranch, atOther],
    [0, 0, 1, 0].map((woken) => ({ woken })),
  )
  outer.ring()
  await nextTurn()
  assert.deepEqual(
    [atOuter, atBell, atBranch, atOther],
    [1, 0, 1, 0].map((woken) => ({ woken })),
  )
})
