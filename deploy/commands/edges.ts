import { defineGroup } from '../command-line.ts'
import { drain } from './edges/drain.ts'
import { forget } from './edges/forget.ts'
import { list } from './edges/list.ts'
import { resume } from './edges/resume.ts'
import { revoke } from './edges/revoke.ts'
import { set } from './edges/set.ts'
import { show } from './edges/show.ts'
import { suspend } from './edges/suspend.ts'
import { token } from './edges/token.ts'
import { tokens } from './edges/tokens.ts'

/** `outport edges` */
export const edges = defineGroup('edges', 'the edges of a primary: enrol, look, suspend, revoke', [
  list,
  token,
  tokens,
  show,
  set,
  drain,
  suspend,
  resume,
  revoke,
  forget,
])
