import type { EdgeStates } from '../store/edge-states.ts'
import type { Edge } from '../store/edges.ts'
import type { Events } from '../store/events.ts'
import { conditionOf, statusOf, type EdgeCondition, type EdgeStatus } from './status.ts'

export interface InventoryDeps {
  readonly states: Pick<EdgeStates, 'of'>
  readonly events: Pick<Events, 'head' | 'firstAfter'>
  /** Epoch ms. */
  readonly now: () => number
}

/** How edges are, by what they last said. */
export interface Inventory {
  /** Of each of these edges, by its id. */
  of(edges: readonly Edge[]): Promise<ReadonlyMap<string, EdgeAtWork>>
}

/** How an edge is; without a status it was never heard of. */
export interface EdgeAtWork {
  readonly condition: EdgeCondition
  readonly status: EdgeStatus | undefined
}

export function createInventory({ states, events, now }: InventoryDeps): Inventory {
  return {
    async of(edges) {
      const said = await states.of(edges.map(({ id }) => id))
      const head = await events.head()
      /** The last event of today's log that it has. */
      const reached = (id: string): number => {
        const applied = said.get(id)?.applied
        return applied?.epoch === head.epoch ? applied.seq : 0
      }
      const first = await events.firstAfter([...said.keys()].map(reached))
      const at = now()
      return new Map(
        edges.map(({ id, state }) => {
          const heard = said.get(id)
          const status =
            heard && statusOf(heard, { head, behindSince: first.get(reached(id)), now: at })
          const condition = conditionOf({ standing: state, status }, at)
          return [id, { condition, status }]
        }),
      )
    },
  }
}
