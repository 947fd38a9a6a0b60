(* Section 3 of the paper: preferences (1), the reward model (2), the objective (3). *)

From Coq Require Import Reals List Lra.
From DPO Require Import Sums.
Import ListNotations.
Open Scope R_scope.

Definition sigma (z : R) : R := 1 / (1 + exp (- z)).

(* A comparison of the data: how much of the data it is, its prompt, the answer that was
   preferred and the other. The paper's expectation over D is a sum over such a list. *)
Record comparison (X Y : Type) : Type :=
  Comparison { weight : R; prompt : X; chosen : Y; rejected : Y }.
Arguments Comparison {X Y}.
Arguments weight {X Y}.
Arguments prompt {X Y}.
Arguments chosen {X Y}.
Arguments rejected {X Y}.

Section Preferences.
  Context {X Y : Type}.

  (* (1) *)
  Definition bradley_terry (r : X -> Y -> R) (x : X) (y1 y2 : Y) : R :=
    exp (r x y1) / (exp (r x y1) + exp (r x y2)).

  (* (2) *)
  Definition L_R (D : list (comparison X Y)) (r : X -> Y -> R) : R :=
    - sum D (fun c => weight c *
        ln (sigma (r (prompt c) (chosen c) - r (prompt c) (rejected c)))).

  (* The data in which both orders of every pair have the share that (1) gives them at r. *)
  Definition labelled (r : X -> Y -> R) (pairs : list (comparison X Y))
      : list (comparison X Y) :=
    flat_map (fun c : comparison X Y =>
      let (w, x, y1, y2) := c in
      [Comparison (w * bradley_terry r x y1 y2) x y1 y2;
       Comparison (w * bradley_terry r x y2 y1) x y2 y1]) pairs.

  Definition weighted (pairs : list (comparison X Y)) : Prop :=
    forall c, In c pairs -> 0 <= weight c.
End Preferences.

Section Objective.
  Context {X Y : Type}.
  Variable answers : list Y.
  Variable pi_ref : X -> Y -> R.
  Variable beta : R.

  (* (3) at the prompt x. *)
  Definition J (r pi : X -> Y -> R) (x : X) : R :=
    expectation answers (pi x) (r x) - beta * KL answers (pi x) (pi_ref x).

  (* (3), with its expectation over prompts. *)
  Definition objective (prompts : list X) (d : X -> R) (r pi : X -> Y -> R) : R :=
    expectation prompts d (J r pi).
End Objective.

Lemma sigma_positive z : 0 < sigma z.
Proof.
  unfold sigma. pose proof (exp_pos (- z)). apply Rdiv_lt_0_compat; lra.
Qed.

Lemma sigma_below_one z : sigma z < 1.
Proof.
  unfold sigma. pose proof (exp_pos (- z)).
  apply (Rmult_lt_reg_r (1 + exp (- z))); [lra|].
  unfold Rdiv. rewrite Rmult_assoc, Rinv_l; lra.
Qed.

Lemma sigma_opp z : sigma (- z) = 1 - sigma z.
Proof.
  unfold sigma. rewrite Ropp_involutive. pose proof (exp_pos z).
  rewrite exp_Ropp. field. lra.
Qed.

Lemma sigma_increasing z1 z2 : z1 < z2 -> sigma z1 < sigma z2.
Proof.
  intro H. unfold sigma, Rdiv. rewrite !Rmult_1_l.
  pose proof (exp_pos (- z1)). pose proof (exp_pos (- z2)).
  apply Rinv_lt_contravar; [apply Rmult_lt_0_compat; lra|].
  apply Rplus_lt_compat_l, exp_increasing. lra.
Qed.

Lemma sigma_injective z1 z2 : sigma z1 = sigma z2 -> z1 = z2.
Proof.
  intro E. destruct (Rtotal_order z1 z2) as [H|[H|H]]; [|exact H|];
    apply sigma_increasing in H; lra.
Qed.

Lemma sigma_0 : sigma 0 = 1 / 2.
Proof. unfold sigma. rewrite Ropp_0, exp_0. f_equal. Qed.

(* (1): a softmax over two rewards is the sigma of their difference. *)
Theorem preference_is_sigma_of_the_gap {X Y} (r : X -> Y -> R) x y1 y2 :
  bradley_terry r x y1 y2 = sigma (r x y1 - r x y2).
Proof.
  unfold bradley_terry, sigma.
  pose proof (exp_pos (r x y1)). pose proof (exp_pos (r x y2)).
  replace (- (r x y1 - r x y2)) with (r x y2 - r x y1) by ring.
  rewrite exp_minus. field. lra.
Qed.

(* (1) is a probability, and one of the two answers is preferred. *)
Theorem preference_is_a_probability {X Y} (r : X -> Y -> R) x y1 y2 :
  0 < bradley_terry r x y1 y2 < 1 /\
  bradley_terry r x y1 y2 + bradley_terry r x y2 y1 = 1.
Proof.
  rewrite !preference_is_sigma_of_the_gap.
  replace (r x y2 - r x y1) with (- (r x y1 - r x y2)) by ring. rewrite sigma_opp.
  pose proof (sigma_positive (r x y1 - r x y2)).
  pose proof (sigma_below_one (r x y1 - r x y2)). lra.
Qed.

(* (1) knows the difference of the two rewards, and nothing else of them. *)
Theorem preference_depends_on_the_gap_only {X Y} (r r' : X -> Y -> R) x y1 y2 :
  bradley_terry r x y1 y2 = bradley_terry r' x y1 y2 <->
  r x y1 - r x y2 = r' x y1 - r' x y2.
Proof.
  rewrite !preference_is_sigma_of_the_gap. split; intro H.
  - now apply sigma_injective.
  - now rewrite H.
Qed.

(* The slip: a common scale cancels as a common shift does. *)
Theorem preference_false_for_scaled_rewards :
  ~ (forall (X Y : Type) (r : X -> Y -> R) (a : R) x y1 y2, 0 < a ->
       bradley_terry (fun x y => a * r x y) x y1 y2 = bradley_terry r x y1 y2).
Proof.
  intro H.
  specialize (H unit bool (fun _ y => if y then 1 else 0) 2 tt true false ltac:(lra)).
  apply preference_depends_on_the_gap_only in H. lra.
Qed.

(* The slip: a single reward has a probability. *)
Theorem preference_false_for_single_rewards :
  ~ (forall (X Y : Type) (r : X -> Y -> R) x y1 y2,
       bradley_terry r x y1 y2 = sigma (r x y1)).
Proof.
  intro H. specialize (H unit bool (fun _ _ => 1) tt true false).
  rewrite preference_is_sigma_of_the_gap in H. apply sigma_injective in H. lra.
Qed.

(* Cross entropy of two labels: least at the true probability, and only there. *)
Lemma cross_entropy m h :
  - (sigma m * ln (sigma m) + sigma (- m) * ln (sigma (- m))) <=
  - (sigma m * ln (sigma h) + sigma (- m) * ln (sigma (- h))).
Proof.
  pose proof (sigma_positive m). pose proof (sigma_positive (- m)).
  pose proof (sigma_positive h). pose proof (sigma_positive (- h)).
  pose proof (gibbs_term (sigma m) (sigma h) ltac:(lra) ltac:(lra) ltac:(lra)) as A.
  pose proof (gibbs_term (sigma (- m)) (sigma (- h)) ltac:(lra) ltac:(lra) ltac:(lra)) as B.
  rewrite ln_div in A, B by lra. pose proof (sigma_opp m). pose proof (sigma_opp h). lra.
Qed.

Lemma cross_entropy_touches m h :
  - (sigma m * ln (sigma m) + sigma (- m) * ln (sigma (- m))) =
  - (sigma m * ln (sigma h) + sigma (- m) * ln (sigma (- h))) -> m = h.
Proof.
  intro E.
  pose proof (sigma_positive m). pose proof (sigma_positive (- m)).
  pose proof (sigma_positive h). pose proof (sigma_positive (- h)).
  pose proof (gibbs_term (sigma m) (sigma h) ltac:(lra) ltac:(lra) ltac:(lra)) as A.
  pose proof (gibbs_term (sigma (- m)) (sigma (- h)) ltac:(lra) ltac:(lra) ltac:(lra)) as B.
  rewrite ln_div in A, B by lra. pose proof (sigma_opp m). pose proof (sigma_opp h).
  apply sigma_injective, gibbs_term_touches; try lra. rewrite ln_div by lra. lra.
Qed.

(* The loss of labelled data, pair by pair. *)
Lemma labelled_loss {X Y} (r_star r : X -> Y -> R) pairs :
  L_R (labelled r_star pairs) r =
  sum pairs (fun c =>
    let m := r_star (prompt c) (chosen c) - r_star (prompt c) (rejected c) in
    let h := r (prompt c) (chosen c) - r (prompt c) (rejected c) in
    weight c * - (sigma m * ln (sigma h) + sigma (- m) * ln (sigma (- h)))).
Proof.
  unfold L_R. induction pairs as [|[w x y1 y2] pairs IH]; simpl; [ring|].
  rewrite <- IH, !preference_is_sigma_of_the_gap.
  replace (r_star x y2 - r_star x y1) with (- (r_star x y1 - r_star x y2)) by ring.
  replace (r x y2 - r x y1) with (- (r x y1 - r x y2)) by ring. ring.
Qed.

(* (2): where the labels come from (1) at r_star, no reward has a smaller loss than r_star,
   and one that has as small a loss has its preferences wherever there is data. *)
Theorem reward_loss_is_least_at_the_true_reward {X Y} (r_star r : X -> Y -> R) pairs :
  weighted pairs ->
  L_R (labelled r_star pairs) r_star <= L_R (labelled r_star pairs) r.
Proof.
  intro W. rewrite !labelled_loss. apply sum_le. intros c I. simpl.
  apply Rmult_le_compat_l; [now apply W | apply cross_entropy].
Qed.

Theorem reward_loss_is_least_at_the_true_preferences {X Y} (r_star r : X -> Y -> R) pairs :
  weighted pairs ->
  (L_R (labelled r_star pairs) r = L_R (labelled r_star pairs) r_star <->
   forall c, In c pairs -> 0 < weight c ->
     bradley_terry r (prompt c) (chosen c) (rejected c) =
     bradley_terry r_star (prompt c) (chosen c) (rejected c)).
Proof.
  intro W. rewrite !labelled_loss. split.
  - intros E c I P. apply preference_depends_on_the_gap_only. symmetry.
    apply cross_entropy_touches, (Rmult_eq_reg_l (weight c)); [|lra].
    symmetry in E. pattern c. revert c I P.
    assert (K := fun H => sum_le_eq pairs _ _ H E). intros c I _. apply K; [|exact I].
    intros c' I'. apply Rmult_le_compat_l; [now apply W | apply cross_entropy].
  - intro H. apply sum_ext. intros c I. simpl.
    destruct (Rle_lt_or_eq_dec _ _ (W c I)) as [P|<-]; [|ring].
    apply H in P; [|exact I]. apply preference_depends_on_the_gap_only in P.
    now rewrite P.
Qed.

(* A logarithm of sigma lies below its tangents. *)
Lemma log_sigma_below_its_tangents m h :
  ln (sigma h) <= ln (sigma m) + sigma (- m) * (h - m).
Proof.
  pose proof (exp_pos (- m)). pose proof (exp_pos (- h)).
  set (p := sigma (- m)). set (t := m - h).
  assert (P : 0 < p < 1) by (split; [apply sigma_positive | apply sigma_below_one]).
  assert (E : sigma m / sigma h = (1 - p) + p * exp t).
  { unfold p, t. rewrite sigma_opp. unfold sigma.
    replace (m - h) with (- h - - m) by ring. rewrite exp_minus. field. lra. }
  assert (K : exp (p * t) <= (1 - p) + p * exp t).
  { pose proof (exp_ineq1_le (- (p * t))) as A. pose proof (exp_ineq1_le (t - p * t)) as B.
    apply (Rmult_le_compat_l (1 - p)) in A; [|lra]. apply (Rmult_le_compat_l p) in B; [|lra].
    rewrite exp_Ropp in A. rewrite exp_minus in B. pose proof (exp_pos (p * t)) as Q.
    apply (Rmult_le_reg_r (/ exp (p * t))); [now apply Rinv_0_lt_compat|].
    rewrite Rinv_r by lra. unfold Rdiv in B. lra. }
  rewrite <- E in K. pose proof (sigma_positive m). pose proof (sigma_positive h).
  assert (L : p * t <= ln (sigma m / sigma h)).
  { rewrite <- (ln_exp (p * t)).
    destruct K as [K|K]; [left; apply ln_increasing; [apply exp_pos | exact K]|].
    right. now rewrite K. }
  rewrite ln_div in L by assumption. unfold t in L. lra.
Qed.

(* (2) is convex in the rewards: it lies above its tangents. *)
Theorem reward_loss_is_convex {X Y} (D : list (comparison X Y)) (r r0 : X -> Y -> R) :
  weighted D ->
  L_R D r0 - sum D (fun c =>
    let gap r := r (prompt c) (chosen c) - r (prompt c) (rejected c) in
    weight c * (sigma (- gap r0) * (gap r - gap r0))) <= L_R D r.
Proof.
  intro W. unfold L_R.
  assert (H : sum D (fun c => weight c *
      ln (sigma (r (prompt c) (chosen c) - r (prompt c) (rejected c)))) <=
    sum D (fun c => weight c *
        ln (sigma (r0 (prompt c) (chosen c) - r0 (prompt c) (rejected c))) +
      (let gap r := r (prompt c) (chosen c) - r (prompt c) (rejected c) in
       weight c * (sigma (- gap r0) * (gap r - gap r0))))).
  { apply sum_le. intros c I. simpl. rewrite <- Rmult_plus_distr_l.
    apply Rmult_le_compat_l; [now apply W | apply log_sigma_below_its_tangents]. }
  rewrite sum_plus in H. simpl in *. lra.
Qed.

(* The slip: the reward itself is learned, not only its differences. *)
Theorem reward_loss_false_for_one_reward_only :
  ~ (forall (X Y : Type) (r_star r : X -> Y -> R) pairs, weighted pairs ->
       (forall x y1 y2, exists c, In c pairs /\ 0 < weight c /\
          prompt c = x /\ chosen c = y1 /\ rejected c = y2) ->
       L_R (labelled r_star pairs) r = L_R (labelled r_star pairs) r_star ->
       forall x y, r x y = r_star x y).
Proof.
  intro H.
  specialize (H unit unit (fun _ _ => 0) (fun _ _ => 1) [Comparison 1 tt tt tt]).
  assert (E : 1 = 0); [|lra]. refine (H _ _ _ tt tt).
  - intros c [<-|[]]. simpl. lra.
  - intros [] [] []. eexists. split; [now left|]. simpl. repeat split. lra.
  - rewrite !labelled_loss. simpl. now rewrite !Rminus_eq_0.
Qed.

(* The slip: with chosen and rejected swapped the true reward is still the minimum. *)
Theorem reward_loss_false_for_swapped_labels :
  ~ (forall (X Y : Type) (r_star r : X -> Y -> R) pairs, weighted pairs ->
       L_R (labelled (fun x y => - r_star x y) pairs) r_star <=
       L_R (labelled (fun x y => - r_star x y) pairs) r).
Proof.
  intro H.
  set (r_star := fun (_ : unit) (y : bool) => if y then 1 else 0).
  set (pairs := [Comparison 1 tt true false]).
  assert (W : weighted pairs) by (intros c [<-|[]]; simpl; lra).
  specialize (H unit bool r_star (fun x y => - r_star x y) pairs W).
  pose proof (reward_loss_is_least_at_the_true_reward (fun x y => - r_star x y) r_star pairs W).
  assert (E : L_R (labelled (fun x y => - r_star x y) pairs) r_star =
              L_R (labelled (fun x y => - r_star x y) pairs) (fun x y => - r_star x y)) by lra.
  pose proof (proj1 (reward_loss_is_least_at_the_true_preferences _ _ _ W) E) as K.
  specialize (K _ (or_introl eq_refl) ltac:(simpl; lra)).
  apply preference_depends_on_the_gap_only in K. simpl in K. lra.
Qed.

(* "Normalised reward": one shift for each prompt makes the mean zero, and only one does. *)
Theorem normalised_reward_exists_once {X Y} (answers : list Y) (mu r : X -> Y -> R) x :
  policy answers (mu x) ->
  exists! f, expectation answers (mu x) (fun y => r x y - f) = 0.
Proof.
  intro P. exists (expectation answers (mu x) (r x)).
  assert (K : forall f, expectation answers (mu x) (fun y => r x y - f) =
                        expectation answers (mu x) (r x) - f).
  { intro f. rewrite (expectation_minus answers (mu x) (r x) (fun _ => f)).
    now rewrite expectation_of_a_constant. }
  split; [|intros f H]; rewrite K in *; lra.
Qed.

(* ... and it changes no preference. *)
Theorem normalised_reward_keeps_preferences {X Y} (r : X -> Y -> R) (f : X -> R) x y1 y2 :
  bradley_terry (fun x y => r x y - f x) x y1 y2 = bradley_terry r x y1 y2.
Proof. apply preference_depends_on_the_gap_only. ring. Qed.

(* The slip: a mean of zero under one distribution is one under another. *)
Theorem normalised_reward_false_under_another_policy :
  ~ (forall (X Y : Type) (answers : list Y) (mu nu r : X -> Y -> R) x,
       policy answers (mu x) -> policy answers (nu x) ->
       expectation answers (mu x) (r x) = 0 -> expectation answers (nu x) (r x) = 0).
Proof.
  intro H.
  specialize (H unit bool [true; false] (fun _ y => if y then 1 else 0)
    (fun _ y => if y then 0 else 1) (fun _ y => if y then 0 else 1) tt).
  unfold policy, expectation in H. simpl in H.
  assert (0 * 0 + (1 * 1 + 0) = 0); [|lra].
  apply H; try (split; [intros [] _|]); lra.
Qed.

(* (3): the reference pays no divergence. *)
Theorem objective_at_the_reference {X Y} (answers : list Y) (pi_ref : X -> Y -> R) beta r x :
  J answers pi_ref beta r pi_ref x = expectation answers (pi_ref x) (r x).
Proof.
  unfold J. assert (KL answers (pi_ref x) (pi_ref x) = 0) as ->; [|ring].
  apply sum_zero. intros y _. destruct (Req_dec (pi_ref x y) 0) as [->|N]; [ring|].
  unfold Rdiv. rewrite Rinv_r, ln_1 by exact N. ring.
Qed.

Theorem objective_at_the_reference_over_prompts {X Y} (answers : list Y)
    (pi_ref : X -> Y -> R) beta prompts d r :
  objective answers pi_ref beta prompts d r pi_ref =
  expectation prompts d (fun x => expectation answers (pi_ref x) (r x)).
Proof. apply sum_ext. intros x _. now rewrite objective_at_the_reference. Qed.

(* (3): the divergence is a cost. *)
Theorem objective_is_at_most_the_reward {X Y} (answers : list Y) (pi_ref : X -> Y -> R)
    beta r pi x :
  0 < beta -> policy answers (pi_ref x) -> policy answers (pi x) ->
  within answers (pi x) (pi_ref x) ->
  J answers pi_ref beta r pi x <= expectation answers (pi x) (r x).
Proof.
  intros B R P W. unfold J. pose proof (gibbs_inequality answers _ _ P R W).
  pose proof (Rmult_le_pos beta _ ltac:(lra) H). lra.
Qed.

Lemma derivative_value f t l l' : l = l' -> derivable_pt_lim f t l -> derivable_pt_lim f t l'.
Proof. now intros ->. Qed.

Lemma probability_derivative f t l :
  (forall s, 0 < f s) -> derivable_pt_lim (fun s => ln (f s)) t l ->
  derivable_pt_lim f t (f t * l).
Proof.
  intros P D. apply (derivable_pt_lim_ext (fun s => exp (ln (f s)))).
  - intro s. now apply exp_ln.
  - apply (derivative_value _ _ (exp (ln (f t)) * l)); [now rewrite exp_ln|].
    apply (derivable_pt_lim_comp (fun s => ln (f s)) exp); [exact D|].
    apply derivable_pt_lim_exp.
Qed.

(* (3): its gradient along one parameter theta is the score-function gradient. The divergence
   depends on theta as well, and what that adds has mean zero. *)
Theorem objective_gradient {X Y} (answers : list Y) (pi_ref : X -> Y -> R) beta r
    (pi : R -> X -> Y -> R) (grad_log_pi : X -> Y -> R) theta x :
  (forall y, In y answers -> 0 < pi_ref x y) ->
  (forall t, policy answers (pi t x)) -> (forall t y, In y answers -> 0 < pi t x y) ->
  (forall y, In y answers ->
     derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
  derivable_pt_lim (fun t => J answers pi_ref beta r (pi t) x) theta
    (expectation answers (pi theta x)
       (fun y => (r x y - beta * ln (pi theta x y / pi_ref x y)) * grad_log_pi x y)).
Proof.
  intros R P Q G.
  assert (S : expectation answers (pi theta x) (grad_log_pi x) = 0).
  { apply (uniqueness_limite (fun t => sum answers (pi t x)) theta).
    - apply sum_derivative. intros y I.
      apply (probability_derivative (fun t => pi t x y)); auto.
    - apply (derivable_pt_lim_ext (fun _ => 1)); [intro t; symmetry; apply P|].
      apply derivable_pt_lim_const. }
  apply (derivable_pt_lim_ext (fun t => sum answers (fun y =>
    pi t x y * (r x y - beta * (ln (pi t x y) - ln (pi_ref x y)))))).
  { intro t. unfold J.
    change (KL answers (pi t x) (pi_ref x))
      with (expectation answers (pi t x) (fun y => ln (pi t x y / pi_ref x y))).
    rewrite <- expectation_scal, <- expectation_minus.
    apply sum_ext. intros y I. rewrite ln_div; auto. }
  apply (derivative_value _ _ (sum answers (fun y =>
    pi theta x y * grad_log_pi x y * (r x y - beta * (ln (pi theta x y) - ln (pi_ref x y)))
    + pi theta x y * (0 - beta * (grad_log_pi x y - 0))))).
  - match goal with |- _ = ?e =>
      replace e with (e + - beta * expectation answers (pi theta x) (grad_log_pi x))
        by (rewrite S; ring) end.
    rewrite <- expectation_scal. unfold expectation. rewrite <- sum_plus.
    apply sum_ext. intros y I. rewrite ln_div by auto. ring.
  - apply (sum_derivative answers (fun t y => _)). intros y I.
    apply (derivable_pt_lim_mult (fun t => pi t x y)
      (fun t => r x y - beta * (ln (pi t x y) - ln (pi_ref x y)))).
    + apply (probability_derivative (fun t => pi t x y)); auto.
    + apply (derivable_pt_lim_minus (fun _ => r x y)
        (fun t => beta * (ln (pi t x y) - ln (pi_ref x y))));
        [apply derivable_pt_lim_const|].
      apply (derivable_pt_lim_scal (fun t => ln (pi t x y) - ln (pi_ref x y))).
      apply (derivable_pt_lim_minus (fun t => ln (pi t x y)) (fun _ => ln (pi_ref x y)));
        [auto | apply derivable_pt_lim_const].
Qed.

(* A fair coin and an unfair one, for the refutations. *)
Definition fair (_ : unit) (y : bool) : R := if y then 1 / 2 else 1 / 2.
Definition unfair (_ : unit) (y : bool) : R := if y then 1 / 4 else 3 / 4.

Lemma fair_policy : policy [true; false] (fair tt).
Proof. split; [intros [] _ |]; simpl; lra. Qed.

Lemma unfair_policy : policy [true; false] (unfair tt).
Proof. split; [intros [] _ |]; simpl; lra. Qed.

Lemma fair_everywhere p : within [true; false] p (fair tt).
Proof. intros [] _; simpl; lra. Qed.

Lemma unfair_everywhere p : within [true; false] p (unfair tt).
Proof. intros [] _; simpl; lra. Qed.

Lemma coins_differ : KL [true; false] (fair tt) (unfair tt) <> 0.
Proof.
  intro E.
  pose proof (proj1 (gibbs_equality _ _ _ fair_policy unfair_policy (unfair_everywhere _)) E)
    as K.
  specialize (K true (or_introl eq_refl)). unfold fair, unfair in K. lra.
Qed.

(* KL(fair, unfair) = 1/2 ln (4/3), KL(unfair, fair) = 3/4 ln 3 - ln 2. *)
Lemma coins_diverge_differently :
  KL [true; false] (fair tt) (unfair tt) <> KL [true; false] (unfair tt) (fair tt).
Proof.
  unfold KL, fair, unfair. simpl. intro E.
  replace (1 / 2 / (1 / 4)) with 2 in E by field.
  replace (1 / 2 / (3 / 4)) with (2 / 3) in E by field.
  replace (1 / 4 / (1 / 2)) with (/ 2) in E by field.
  replace (3 / 4 / (1 / 2)) with (3 / 2) in E by field.
  rewrite !ln_div, ln_Rinv in E by lra.
  assert (K : 8 * ln 2 = 5 * ln 3) by lra.
  assert (P : forall n x, 0 < x -> INR n * ln x = ln (x ^ n))
    by (intros; symmetry; now apply ln_pow).
  assert (L : ln (2 ^ 8) = ln (3 ^ 5)).
  { rewrite <- !P by lra. simpl. lra. }
  apply ln_inv in L; lra.
Qed.

(* The slip: the divergence the other way round. *)
Theorem objective_false_with_the_divergence_turned :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       0 < beta -> policy answers (pi_ref x) -> policy answers (pi x) ->
       within answers (pi x) (pi_ref x) ->
       J answers pi_ref beta r pi x =
       expectation answers (pi x) (r x) - beta * KL answers (pi_ref x) (pi x)).
Proof.
  intro H.
  specialize (H unit bool [true; false] unfair 1 unfair fair tt ltac:(lra)
    unfair_policy fair_policy (unfair_everywhere _)).
  unfold J in H. pose proof coins_diverge_differently. lra.
Qed.

(* The slip: beta may be negative. *)
Theorem objective_false_for_negative_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       policy answers (pi_ref x) -> policy answers (pi x) ->
       within answers (pi x) (pi_ref x) ->
       J answers pi_ref beta r pi x <= expectation answers (pi x) (r x)).
Proof.
  intro H.
  specialize (H unit bool [true; false] unfair (-1) unfair fair tt
    unfair_policy fair_policy (unfair_everywhere _)).
  pose proof (gibbs_inequality _ _ _ fair_policy unfair_policy (unfair_everywhere _)) as G.
  assert (E : KL [true; false] (fair tt) (unfair tt) = 0) by (unfold J in H; lra).
  now apply coins_differ.
Qed.

(* The reward that PPO is run on (unnumbered): its expectation is the objective. *)
Theorem ppo_reward_has_the_objective_as_mean {X Y} (answers : list Y)
    (pi_ref : X -> Y -> R) beta r pi x :
  policy answers (pi_ref x) -> policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
  expectation answers (pi x) (fun y => r x y - beta * (ln (pi x y) - ln (pi_ref x y))) =
  J answers pi_ref beta r pi x.
Proof.
  intros R P W. unfold J. rewrite expectation_minus, expectation_scal. do 2 f_equal.
  apply (expectation_ext answers (pi x)); [exact P|]. intros y I Hy.
  rewrite ln_div; [reflexivity | exact Hy | apply (within_positive answers (pi x)); auto].
Qed.

(* The slip: the logarithms the other way round. *)
Theorem ppo_reward_false_with_the_ratio_turned :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       policy answers (pi_ref x) -> policy answers (pi x) ->
       within answers (pi x) (pi_ref x) ->
       expectation answers (pi x)
         (fun y => r x y - beta * (ln (pi_ref x y) - ln (pi x y))) =
       J answers pi_ref beta r pi x).
Proof.
  intro H.
  specialize (H unit bool [true; false] unfair 1 unfair fair tt
    unfair_policy fair_policy (unfair_everywhere _)).
  pose proof (ppo_reward_has_the_objective_as_mean [true; false] unfair 1 unfair fair tt
    unfair_policy fair_policy (unfair_everywhere _)) as K.
  rewrite <- K, expectation_minus, (expectation_minus _ _ (unfair tt)) in H.
  rewrite expectation_scal, (expectation_scal _ _ 1 (fun y => ln (fair _ y) - _)) in H.
  rewrite !expectation_minus in H. unfold J in K.
  rewrite expectation_minus, expectation_scal, expectation_minus in K.
  assert (E : KL [true; false] (fair tt) (unfair tt) = 0) by lra.
  now apply coins_differ.
Qed.
