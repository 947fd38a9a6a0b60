(* Appendix A of the paper: (11) to (25), Proposition 1, and the slips of the paper. *)

From Coq Require Import Reals List Lra Permutation Factorial.
From DPO Require Import Sums Section3 Section4 Section5.
Import ListNotations.
Open Scope R_scope.

(* A.1 *)

Section A1.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation J := (J answers pi_ref beta).
  Local Notation objective := (objective answers pi_ref beta).

  (* (11): the objective (3) as one expectation, at one prompt and over prompts. *)
  Theorem objective_is_one_expectation r pi x :
    J r pi x = expectation answers (pi x)
      (fun y => r x y - beta * ln (pi x y / pi_ref x y)).
  Proof. now rewrite expectation_minus, expectation_scal. Qed.

  Theorem objective_is_one_expectation_over_prompts prompts d r pi :
    objective prompts d r pi = expectation prompts d (fun x =>
      expectation answers (pi x) (fun y => r x y - beta * ln (pi x y / pi_ref x y))).
  Proof. apply sum_ext. intros x _. now rewrite objective_is_one_expectation. Qed.

  (* (12): divided by -beta, and log c added and subtracted. Any positive c will do. *)
  Theorem any_constant_may_be_added_and_subtracted c r pi x :
    0 < c -> policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    expectation answers (pi x)
      (fun y => ln (pi x y / (1 / c * pi_ref x y * exp (r x y / beta))) - ln c) =
    - J r pi x / beta.
  Proof.
    intros C P W. rewrite objective_is_one_expectation.
    replace (- expectation answers (pi x) (fun y => r x y - beta * ln (pi x y / pi_ref x y))
             / beta)
      with (- / beta * expectation answers (pi x)
             (fun y => r x y - beta * ln (pi x y / pi_ref x y))) by (field; lra).
    rewrite <- expectation_scal. apply expectation_ext; [exact P|]. intros y I Hy.
    pose proof (within_positive answers _ _ y (pi_ref_policy x) W I Hy) as R.
    pose proof (exp_pos (r x y / beta)) as E.
    pose proof (Rinv_0_lt_compat c C) as K.
    unfold Rdiv at 2. rewrite Rmult_1_l.
    pose proof (Rmult_lt_0_compat _ _ K R) as M.
    rewrite !ln_div, !ln_mult, ln_exp, ln_Rinv by (try apply Rmult_lt_0_compat; assumption).
    field. lra.
  Qed.

  (* ... but it makes a distribution of the denominator only if it is Z. *)
  Theorem only_the_partition_makes_a_distribution c r x :
    0 < c ->
    (policy answers (fun y => 1 / c * pi_ref x y * exp (r x y / beta)) <-> c = Z r x).
  Proof.
    intro C. split; [|intros ->; now apply pi_r_is_policy]. intros [_ S].
    rewrite (sum_ext _ _ (fun y => / c * (pi_ref x y * exp (r x y / beta)))) in S
      by (intros; unfold Rdiv; ring).
    rewrite sum_scal in S. fold (Z r x) in S.
    apply (Rmult_eq_reg_l (/ c)); [|apply Rgt_not_eq, Rinv_0_lt_compat, C].
    rewrite S. apply Rinv_l. lra.
  Qed.

  (* Between (12) and (13): pi* is a valid distribution, positive where the reference is. *)
  Theorem optimum_is_a_policy r x : policy answers (pi_r r x).
  Proof. now apply pi_r_is_policy. Qed.

  Theorem optimum_is_positive_where_the_reference_is r x y :
    0 < pi_ref x y -> 0 < pi_r r x y.
  Proof. now apply pi_r_positive. Qed.

  (* (13) *)
  Theorem optimum_in_the_denominator r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    expectation answers (pi x) (fun y => ln (pi x y / pi_r r x y)) - ln (Z r x) =
    - J r pi x / beta.
  Proof.
    intros P W.
    rewrite (objective_is_distance_to_the_optimum _ _ _ pi_ref_policy beta_positive r pi x P W).
    unfold KL. unfold expectation. field. lra.
  Qed.

  (* (14) *)
  Theorem objective_as_a_divergence r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    KL answers (pi x) (pi_r r x) - ln (Z r x) = - J r pi x / beta.
  Proof. intros P W. now apply optimum_in_the_denominator. Qed.

  (* From (12) on the paper has a minimum for the maximum: less of (14) is more of (3). *)
  Theorem maximum_becomes_a_minimum r pi pi' x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    policy answers (pi' x) -> within answers (pi' x) (pi_ref x) ->
    (KL answers (pi' x) (pi_r r x) - ln (Z r x) <= KL answers (pi x) (pi_r r x) - ln (Z r x)
     <-> J r pi x <= J r pi' x).
  Proof.
    intros P W P' W'. rewrite !objective_as_a_divergence by assumption.
    unfold Rdiv. split; intro H.
    - apply Rmult_le_reg_r in H; [lra | now apply Rinv_0_lt_compat].
    - apply Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat | lra].
  Qed.

  (* (15): Gibbs' inequality, and where it is an equality. *)
  Theorem divergence_is_least_at_the_optimum r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    0 <= KL answers (pi x) (pi_r r x) /\
    (KL answers (pi x) (pi_r r x) = 0 <-> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros P W. pose proof (optimum_is_a_policy r x) as S.
    pose proof (within_pi_r answers pi_ref beta pi_ref_policy pi r x W) as V.
    split; [now apply gibbs_inequality | now apply gibbs_equality].
  Qed.
End A1.

(* A.2 *)

(* (16) *)
Theorem preference_restated {X Y} (r : X -> Y -> R) x y1 y2 :
  bradley_terry r x y1 y2 = 1 / (1 + exp (r x y2 - r x y1)).
Proof.
  rewrite preference_is_sigma_of_the_gap. unfold sigma. now rewrite Ropp_minus_distr.
Qed.

Section A2.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).

  (* (17), put into (16): beta log Z cancels. *)
  Theorem preference_is_sigma_of_the_implicit_gap r x y1 y2 :
    0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
    bradley_terry r x y1 y2 =
    sigma (implicit_reward (pi_r r) x y1 - implicit_reward (pi_r r) x y2).
  Proof.
    intros P1 P2.
    rewrite (preference_from_the_optimum answers pi_ref beta) by assumption.
    unfold sigma, Section4.implicit_reward. now rewrite Ropp_minus_distr.
  Qed.

  (* (17) read backwards: a policy is optimal for its implicit reward, whatever is added. *)
  Theorem policy_is_optimal_for_its_implicit_reward pi (f : X -> R) x y :
    policy answers (pi x) -> (forall y, In y answers -> 0 < pi_ref x y) ->
    (forall y, In y answers -> 0 < pi x y) -> In y answers ->
    pi_r (fun x y => implicit_reward pi x y + f x) x y = pi x y.
  Proof.
    intros P R Q I. symmetry. revert y I.
    apply (policy_of_a_reward answers pi_ref beta ltac:(lra) pi _ (f x) x); auto.
  Qed.
End A2.

(* A.3 *)

Section Orders.
  Context {Y : Type}.

  (* Every way to take one of the answers away, and every order of the answers. *)
  Fixpoint picks (l : list Y) : list (Y * list Y) :=
    match l with
    | [] => []
    | y :: rest => (y, rest) :: map (fun p => (fst p, y :: snd p)) (picks rest)
    end.

  Fixpoint orders_of (n : nat) (l : list Y) : list (list Y) :=
    match n with
    | O => [[]]
    | S n => flat_map (fun p => map (cons (fst p)) (orders_of n (snd p))) (picks l)
    end.

  Definition orders (l : list Y) : list (list Y) := orders_of (length l) l.

  Lemma picks_permute l y rest : In (y, rest) (picks l) -> Permutation l (y :: rest).
  Proof.
    revert y rest. induction l as [|a l IH]; simpl; intros y rest H; [easy|].
    destruct H as [H|H].
    - injection H as <- <-. reflexivity.
    - apply in_map_iff in H as ([b k] & H & I). injection H as <- <-.
      simpl. rewrite (IH b k I). apply perm_swap.
  Qed.

  Lemma picks_all l y : In y l -> exists rest, In (y, rest) (picks l).
  Proof.
    induction l as [|a l IH]; simpl; intro H; [easy|]. destruct H as [<-|H].
    - exists l. now left.
    - destruct (IH H) as [k K]. exists (a :: k). right. apply in_map_iff.
      now exists (y, k).
  Qed.

  Lemma picks_length l y rest : In (y, rest) (picks l) -> length l = S (length rest).
  Proof. intro H. exact (Permutation_length (picks_permute l y rest H)). Qed.

  Lemma orders_of_permute n l o :
    length l = n -> (In o (orders_of n l) <-> Permutation l o).
  Proof.
    revert l o. induction n as [|n IH]; intros l o L; simpl.
    - destruct l; [|easy]. split; [intros [<-|[]]; constructor|].
      intro H. apply Permutation_nil in H. auto.
    - rewrite in_flat_map. split.
      + intros ([y k] & I & H). apply in_map_iff in H as (o' & <- & H). simpl in *.
        rewrite (picks_permute l y k I). apply perm_skip, IH; [|exact H].
        apply picks_length in I. congruence.
      + intro H. destruct o as [|y o].
        * apply Permutation_sym, Permutation_nil in H. now subst.
        * destruct (picks_all l y) as [k K].
          { apply (Permutation_in y (Permutation_sym H)). now left. }
          exists (y, k). split; [exact K|]. simpl. apply in_map, IH.
          { apply picks_length in K. congruence. }
          apply (Permutation_cons_inv (a := y)).
          now rewrite <- (picks_permute l y k K).
  Qed.

  Lemma sum_permute (l k : list Y) f : Permutation l k -> sum l f = sum k f.
  Proof. induction 1; simpl; lra. Qed.

  Lemma sum_of_picks l (f : Y -> R) : sum (picks l) (fun p => f (fst p)) = sum l f.
  Proof.
    induction l as [|a l IH]; simpl; [reflexivity|]. f_equal. rewrite <- IH.
    generalize (picks l) as k. induction k as [|b k IHk]; simpl; [reflexivity|].
    now rewrite IHk.
  Qed.
End Orders.

Lemma sum_map {A B} (h : A -> B) l f : sum (map h l) f = sum l (fun a => f (h a)).
Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; reflexivity. Qed.

Lemma sum_flat_map {A B} (h : A -> list B) l f :
  sum (flat_map h l) f = sum l (fun a => sum (h a) f).
Proof. induction l as [|a l IH]; simpl; [|rewrite sum_app, IH]; reflexivity. Qed.

Lemma sum_of_exponentials {X Y} (r : X -> Y -> R) x y l :
  0 < sum (y :: l) (fun y => exp (r x y)).
Proof.
  apply (sum_positive _ _ y); [intros; left; apply exp_pos | now left | apply exp_pos].
Qed.

Lemma plackett_luce_positive {X Y} (r : X -> Y -> R) x order : 0 < plackett_luce r x order.
Proof.
  induction order as [|y order IH]; [simpl; lra|]. cbn [plackett_luce].
  apply Rmult_lt_0_compat; [|exact IH].
  apply Rdiv_lt_0_compat; [apply exp_pos | apply sum_of_exponentials].
Qed.

(* (18): `orders` lists the orders of the answers, and nothing else ... *)
Theorem orders_are_the_permutations {Y} (l o : list Y) :
  In o (orders l) <-> Permutation l o.
Proof. now apply orders_of_permute. Qed.

(* ... and their probabilities add up to one. *)
Theorem plackett_luce_is_a_distribution {X Y} (r : X -> Y -> R) x l :
  policy (orders l) (plackett_luce r x).
Proof.
  split; [intros; left; apply plackett_luce_positive|].
  unfold orders. remember (length l) as n eqn:L. symmetry in L. revert l L.
  induction n as [|n IH]; intros l L; [simpl; ring|]. cbn [orders_of].
  rewrite sum_flat_map.
  rewrite (sum_ext _ _ (fun p => exp (r x (fst p)) * / sum l (fun y => exp (r x y)))).
  - rewrite (sum_of_picks l (fun y => exp (r x y) * / sum l (fun y => exp (r x y)))).
    rewrite sum_constant_factor. apply Rinv_r, Rgt_not_eq.
    destruct l; [easy | apply sum_of_exponentials].
  - intros [y k] I. rewrite sum_map. cbn [fst snd].
    assert (K : length k = n) by (apply picks_length in I; congruence).
    rewrite (sum_ext _ _ (fun o => exp (r x y) * / sum l (fun y => exp (r x y)) *
      plackett_luce r x o)).
    + rewrite sum_scal, (IH k K). ring.
    + intros o H. apply (orders_of_permute n k o K) in H. cbn [plackett_luce].
      rewrite (sum_permute l (y :: o)); [reflexivity|].
      rewrite (picks_permute l y k I). now apply perm_skip.
Qed.

(* (18): for two answers it is (1). *)
Theorem plackett_luce_of_two_is_bradley_terry {X Y} (r : X -> Y -> R) x y1 y2 :
  plackett_luce r x [y1; y2] = bradley_terry r x y1 y2.
Proof.
  unfold bradley_terry. simpl. rewrite !Rplus_0_r.
  pose proof (exp_pos (r x y1)). pose proof (exp_pos (r x y2)). field. lra.
Qed.

(* A ranking of the data, as `comparison` is a pair of it. *)
Record ranking (X Y : Type) : Type :=
  Ranking { share : R; about : X; order : list Y }.
Arguments Ranking {X Y}.
Arguments share {X Y}.
Arguments about {X Y}.
Arguments order {X Y}.

Definition as_ranking {X Y} (c : comparison X Y) : ranking X Y :=
  Ranking (weight c) (prompt c) [chosen c; rejected c].

(* (20) *)
Definition L_ranking {X Y} (pi_ref : X -> Y -> R) beta (D : list (ranking X Y)) pi : R :=
  - sum D (fun c =>
      share c * ln (plackett_luce (implicit_reward pi_ref beta pi) (about c) (order c))).

Section A3.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_ranking := (L_ranking pi_ref beta).
  Local Notation positive := (@positive X Y answers).

  (* (19): Z leaves every factor. *)
  Theorem ranking_from_the_optimum r x order :
    positive pi_ref -> incl order answers ->
    plackett_luce r x order = plackett_luce (implicit_reward (pi_r r)) x order.
  Proof.
    intros P I. apply (lemma_1 answers); [|exact I].
    exists (fun x => beta * ln (Z answers pi_ref beta r x)). intros x' y K.
    rewrite (reward_from_its_policy answers pi_ref beta pi_ref_policy beta_positive r x' y
      (P x' y K)) at 1.
    unfold Section4.implicit_reward. ring.
  Qed.

  (* (20): for rankings of two it is (7). *)
  Theorem ranking_loss_of_two_is_the_dpo_loss D pi :
    L_ranking (map as_ranking D) pi = L_DPO pi_ref beta D pi.
  Proof.
    unfold AppendixA.L_ranking, L_DPO. rewrite sum_map. f_equal. apply sum_ext.
    intros c _. simpl share. simpl about. simpl order. do 2 f_equal.
    now rewrite plackett_luce_of_two_is_bradley_terry, preference_is_sigma_of_the_gap.
  Qed.

  (* (20): where the orders come from (18) at r, no policy has a smaller loss than (4). *)
  Theorem ranking_loss_is_least_at_the_optimum r x pi :
    positive pi_ref ->
    let D := map (fun o => Ranking (plackett_luce r x o) x o) (orders answers) in
    L_ranking D (pi_r r) <= L_ranking D pi.
  Proof.
    intros P D. unfold AppendixA.L_ranking, D. rewrite !sum_map. simpl.
    rewrite (sum_ext (orders answers)
      (fun o => plackett_luce r x o * ln (plackett_luce (implicit_reward (pi_r r)) x o))
      (fun o => plackett_luce r x o * ln (plackett_luce r x o))).
    - assert (W : within (orders answers) (plackett_luce r x)
                    (plackett_luce (implicit_reward pi) x))
        by (intros o _ E; pose proof (plackett_luce_positive (implicit_reward pi) x o); lra).
      pose proof (gibbs_inequality _ _ _ (plackett_luce_is_a_distribution r x answers)
        (plackett_luce_is_a_distribution (implicit_reward pi) x answers) W) as G.
      unfold KL in G.
      rewrite (sum_ext _ _ (fun o => plackett_luce r x o * ln (plackett_luce r x o) -
        plackett_luce r x o * ln (plackett_luce (implicit_reward pi) x o))) in G.
      + rewrite sum_minus in G. lra.
      + intros o _. rewrite ln_div by apply plackett_luce_positive. ring.
    - intros o I. do 2 f_equal. symmetry. apply ranking_from_the_optimum; [exact P|].
      apply orders_are_the_permutations in I. intros y K.
      exact (Permutation_in y (Permutation_sym I) K).
  Qed.
End A3.

(* A.4 *)

(* (21): the two properties of sigma that A.4 names. *)
Theorem sigma_derivative z : derivable_pt_lim sigma z (sigma z * (1 - sigma z)).
Proof.
  apply (derivable_pt_lim_ext (fun z => exp (ln (sigma z)))).
  - intro s. apply exp_ln, sigma_positive.
  - apply (derivative_value _ _ (exp (ln (sigma z)) * sigma (- z))).
    + rewrite exp_ln, sigma_opp by apply sigma_positive. reflexivity.
    + apply (derivable_pt_lim_comp (fun z => ln (sigma z)) exp);
        [apply log_sigma_derivative | apply derivable_pt_lim_exp].
Qed.

Theorem sigma_of_the_opposite z : sigma (- z) = 1 - sigma z.
Proof. apply sigma_opp. Qed.

(* (21) as it is printed, chosen and rejected swapped. *)
Definition L_printed {X Y} (pi_ref : X -> Y -> R) beta (D : list (comparison X Y)) pi : R :=
  - sum D (fun c => weight c * ln (sigma (
      beta * ln (pi (prompt c) (rejected c) / pi_ref (prompt c) (rejected c)) -
      beta * ln (pi (prompt c) (chosen c) / pi_ref (prompt c) (chosen c))))).

Lemma log_sigma_of_the_opposite z : ln (sigma (- z)) = ln (sigma z) - z.
Proof.
  unfold sigma. rewrite Ropp_involutive. pose proof (exp_pos z). pose proof (exp_pos (- z)).
  rewrite !ln_div by lra.
  replace (1 + exp z) with (exp z * (1 + exp (- z)))
    by (rewrite exp_Ropp; field; lra).
  rewrite ln_mult, ln_exp by lra. ring.
Qed.

(* It exceeds (7) by the margin. *)
Theorem printed_loss_exceeds_the_loss_by_the_margin {X Y} (pi_ref : X -> Y -> R) beta D pi :
  L_printed pi_ref beta D pi =
  L_DPO pi_ref beta D pi + sum D (fun c => weight c *
    (implicit_reward pi_ref beta pi (prompt c) (chosen c)
     - implicit_reward pi_ref beta pi (prompt c) (rejected c))).
Proof.
  unfold L_printed, L_DPO, implicit_reward.
  induction D as [|c D IH]; simpl; [ring|].
  rewrite <- (Ropp_minus_distr (beta * ln (_ (chosen c) / _))), log_sigma_of_the_opposite.
  lra.
Qed.

(* (22): the chain rule, with sigma' = sigma (1 - sigma) in it. *)
Theorem loss_gradient_by_the_chain_rule u u' theta :
  derivable_pt_lim u theta u' ->
  derivable_pt_lim (fun t => - ln (sigma (u t))) theta
    (- (sigma (u theta) * (1 - sigma (u theta)) / sigma (u theta)) * u').
Proof.
  intro H. pose proof (sigma_positive (u theta)).
  apply (derivative_value _ _ (- (sigma (- u theta) * u'))).
  - rewrite sigma_opp. field. lra.
  - apply (derivable_pt_lim_opp (fun t => ln (sigma (u t)))).
    apply (derivable_pt_lim_comp u (fun z => ln (sigma z)));
      [exact H | apply log_sigma_derivative].
Qed.

(* (22): the gradient of the printed loss is minus the last line of A.4. *)
Theorem gradient_of_the_printed_loss {X Y} (pi_ref : X -> Y -> R) beta D
    (pi : R -> X -> Y -> R) (grad_log_pi : X -> Y -> R) theta :
  comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
  (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
  derivable_pt_lim (fun t => L_printed pi_ref beta D (pi t)) theta
    (- (- beta * sum D (fun c =>
       weight c *
       (sigma (implicit_reward pi_ref beta (pi theta) (prompt c) (chosen c)
               - implicit_reward pi_ref beta (pi theta) (prompt c) (rejected c)) *
        (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c)))))).
Proof.
  intros C P G.
  set (swap := fun c : comparison X Y =>
    Comparison (weight c) (prompt c) (rejected c) (chosen c)).
  assert (C' : comparable pi_ref (map swap D)).
  { intros c I. apply in_map_iff in I as (b & <- & I). apply C in I. simpl. tauto. }
  apply (derivable_pt_lim_ext (fun t => L_DPO pi_ref beta (map swap D) (pi t))).
  - intro t. unfold L_DPO. now rewrite sum_map.
  - eapply derivative_value; [|exact (dpo_gradient pi_ref beta (map swap D) pi grad_log_pi
      theta C' P G)].
    rewrite sum_map. simpl. rewrite <- !sum_scal.
    match goal with |- _ = - ?s => replace (- s) with (-1 * s) by ring end.
    rewrite <- sum_scal. apply sum_ext. intros. ring.
Qed.

(* A.6 *)

Section A6.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation equivalent := (@equivalent X Y answers).
  Local Notation projection := (projection answers pi_ref beta).
  Local Notation positive := (@positive X Y answers).

  (* (23) *)
  Theorem theorem_line_1 r x y :
    positive pi_ref -> In y answers ->
    r x y = implicit_reward (pi_r r) x y + beta * ln (Z r x).
  Proof. intros P I. apply reward_from_its_policy; auto. Qed.

  (* (24) *)
  Theorem theorem_line_2 r x y :
    positive pi_ref -> In y answers -> projection r x y = implicit_reward (pi_r r) x y.
  Proof.
    intros P I. pose proof (theorem_line_1 r x y P I) as E.
    rewrite projection_is_a_shift. lra.
  Qed.

  (* (25) *)
  Theorem theorem_line_3 r r' x y :
    positive pi_ref -> equivalent r r' -> In y answers ->
    projection r x y = implicit_reward (pi_r r) x y /\
    implicit_reward (pi_r r) x y = implicit_reward (pi_r r') x y /\
    implicit_reward (pi_r r') x y = projection r' x y.
  Proof.
    intros P E I. rewrite !theorem_line_2 by assumption. repeat split.
    unfold Section4.implicit_reward. now rewrite (lemma_2 _ _ _ pi_ref_policy beta_positive r r').
  Qed.

  (* "Can be reparameterised as": an implicit reward of a policy without zeros. *)
  Definition reparameterised (r : X -> Y -> R) : Prop :=
    exists pi, (forall x, policy answers (pi x)) /\ positive pi /\
      forall x y, In y answers -> r x y = implicit_reward pi x y.

  Lemma one_reparameterisation r r' :
    positive pi_ref -> reparameterised r -> reparameterised r' -> equivalent r r' ->
    forall x y, In y answers -> r x y = r' x y.
  Proof.
    intros R (pi & P & Q & H) (pi' & P' & Q' & H') [f E] x y I.
    assert (B : beta <> 0) by lra.
    assert (F : forall z, In z answers -> pi x z = pi_r r x z).
    { apply (policy_of_a_reward answers pi_ref beta B pi r 0 x); auto.
      intros z K. rewrite (H x z K). ring. }
    assert (F' : forall z, In z answers -> pi' x z = pi_r r x z).
    { apply (policy_of_a_reward answers pi_ref beta B pi' r (f x) x); auto.
      intros z K. rewrite <- (H' x z K), <- (E x z K). ring. }
    rewrite (H x y I), (H' x y I). unfold Section4.implicit_reward.
    now rewrite (F y I), (F' y I).
  Qed.

  (* Proposition 1: every class has one reward that can be reparameterised, and only one. *)
  Theorem proposition_1 r :
    positive pi_ref ->
    exists r', (equivalent r r' /\ reparameterised r') /\
      forall r'', equivalent r r'' /\ reparameterised r'' ->
        forall x y, In y answers -> r'' x y = r' x y.
  Proof.
    intro P. assert (Q : reparameterised (projection r)).
    { exists (pi_r r). split; [|split].
      - intro x. now apply pi_r_is_policy.
      - intros x y I. apply pi_r_positive; auto.
      - intros x y I. now apply theorem_line_2. }
    exists (projection r). split; [split; [apply projection_is_equivalent | exact Q]|].
    intros r'' [E Q'']. apply one_reparameterisation; auto.
    apply (equivalence_is_transitive answers r'' r);
      [now apply equivalence_is_symmetric | apply projection_is_equivalent].
  Qed.
End A6.

(* The slips of the paper. *)

(* A.4: its weight and that of section 4 agree at margin zero, and nowhere else. *)
Theorem slip_of_a4_agrees_at_margin_zero_only beta z :
  beta <> 0 -> (- beta * sigma z = - beta * sigma (- z) <-> z = 0).
Proof.
  intro B. split; [|intros ->; now rewrite Ropp_0]. intro E.
  apply Rmult_eq_reg_l in E; [|lra]. apply sigma_injective in E. lra.
Qed.

Theorem slip_of_a4_is_a_hyperbolic_tangent beta z :
  - beta * sigma z - - beta * sigma (- z) = - beta * tanh (z / 2).
Proof.
  unfold tanh, sinh, cosh, sigma. rewrite Ropp_involutive. pose proof (exp_pos (z / 2)).
  replace (exp z) with (exp (z / 2) * exp (z / 2))
    by (rewrite <- exp_plus; f_equal; field).
  replace (exp (- z)) with (/ (exp (z / 2) * exp (z / 2)))
    by (rewrite <- exp_plus, <- exp_Ropp; f_equal; field).
  rewrite exp_Ropp. field. pose proof (Rmult_lt_0_compat _ _ H H). repeat split; lra.
Qed.

(* 5.2 takes pi* "from Eq. 7". At pi* the loss (7) of one pair is minus the logarithm of a
   preference, one number for two answers, and no policy. *)
Theorem dpo_loss_of_a_pair_is_a_preference {X Y} (answers : list Y) (pi_ref : X -> Y -> R)
    beta r x y1 y2 :
  (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
  exp (- L_DPO pi_ref beta [Comparison 1 x y1 y2] (pi_r answers pi_ref beta r)) =
  bradley_terry r x y1 y2.
Proof.
  intros P B P1 P2.
  rewrite dpo_loss_at_the_optimum; [|exact P | exact B | intros c [<-|[]]; simpl; auto].
  unfold L_R. simpl. rewrite Ropp_involutive, Rplus_0_r, Rmult_1_l.
  rewrite exp_ln by apply sigma_positive. now rewrite preference_is_sigma_of_the_gap.
Qed.

(* Table 3 shows Unlikelihood, log pi(y_w) - alpha log pi(y_l). Its gradient times beta is that
   of (7) without the weight for alpha = 1 only. *)
Theorem unlikelihood_gradient_is_unweighted_for_alpha_one (f_w f_l : R -> R) d_w d_l
    beta alpha theta g_u g_m :
  0 < beta -> d_l <> 0 ->
  derivable_pt_lim f_w theta d_w -> derivable_pt_lim f_l theta d_l ->
  derivable_pt_lim (fun t => - (f_w t - alpha * f_l t)) theta g_u ->
  derivable_pt_lim (fun t => - (beta * f_w t - beta * f_l t)) theta g_m ->
  (beta * g_u = g_m <-> alpha = 1).
Proof.
  intros B N W L U M.
  assert (U' : derivable_pt_lim (fun t => - (f_w t - alpha * f_l t)) theta
                 (- (d_w - alpha * d_l))).
  { apply (derivable_pt_lim_opp (fun t => f_w t - alpha * f_l t)).
    apply (derivable_pt_lim_minus f_w (fun t => alpha * f_l t)); [exact W|].
    now apply (derivable_pt_lim_scal f_l). }
  assert (M' : derivable_pt_lim (fun t => - (beta * f_w t - beta * f_l t)) theta
                 (- (beta * d_w - beta * d_l))).
  { apply (derivable_pt_lim_opp (fun t => beta * f_w t - beta * f_l t)).
    apply (derivable_pt_lim_minus (fun t => beta * f_w t) (fun t => beta * f_l t));
      now apply (derivable_pt_lim_scal _). }
  rewrite (uniqueness_limite _ _ _ _ U U'), (uniqueness_limite _ _ _ _ M M'). split.
  - intro E. apply (Rmult_eq_reg_r d_l); [|exact N]. apply (Rmult_eq_reg_l beta); lra.
  - intros ->. ring.
Qed.
